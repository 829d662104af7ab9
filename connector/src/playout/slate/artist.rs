//! The thread that draws cards: one for all lines, so that no output thread ever shapes text or decodes a file.
//!
//! An output thread says which format it shows and takes what is ready; it never waits. A card is drawn once for what is
//! on it, not once for each picture; a rehearsal's words are looked at twice a second. Cards without a name on them are
//! shared between lines of one format.

use std::{
    collections::HashMap,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{error, info};

use super::{Format, Slate, Words, card, image, text::Typesetter};
use crate::output::Picture;

/// Where an output thread gets its cards. Nothing here waits.
pub(in crate::playout) trait Cards: Send {
    /// The format and the kind of the cards that will be asked for.
    fn want(&mut self, format: Format, slate: &Slate);

    /// The card with nothing to read, if it is drawn.
    fn bare(&self) -> Option<Arc<Picture>>;

    /// The card with all that is on it; never before the bare one is drawn.
    fn full(&self) -> Option<Arc<Picture>>;
}

/// A line, for whoever draws its cards. Called on the artist's thread.
pub(in crate::playout) trait Sitter: Send + Sync {
    /// "Camera 1".
    fn name(&self) -> &str;

    /// What is wrong and what to do; `None` while there is a picture.
    fn words(&self) -> Option<Words>;

    /// The studio's own card can't be shown, and why; `None`: it can.
    fn fault(&self, fault: Option<&str>);
}

/// Draws the cards of all lines until it is dropped.
pub struct Artist {
    studio: Arc<Studio>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Studio {
    orders: Mutex<Orders>,
    ordered: Condvar,
}

#[derive(Default)]
struct Orders {
    easels: Vec<Weak<Easel>>,
    /// Something changed since the last look.
    is_new: bool,
    stop: bool,
}

struct Easel {
    sitter: Arc<dyn Sitter>,
    desk: Mutex<Desk>,
}

/// What an output thread asks for.
type Wanted = (Format, Slate);

#[derive(Default)]
struct Desk {
    wanted: Option<Wanted>,
    bare: Option<Drawn>,
    full: Option<Drawn>,
    fault: Option<Fault>,
}

/// The studio's own card can't be shown.
struct Fault {
    message: String,
    /// Until it is tried again.
    looks_left: u32,
}

struct Drawn {
    subject: Subject,
    picture: Arc<Picture>,
}

/// What is on a card.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    /// Width, height, and the aspect's bits.
    format: (u32, u32, u32),
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Neutral,
    Black,
    File(String),
    Name(String),
    Words {
        name: String,
        reason: String,
        remedy: String,
    },
}

impl Artist {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let studio = Arc::new(Studio::default());
        let thread = thread::Builder::new().name("slates".to_owned()).spawn({
            let studio = studio.clone();
            move || run(&studio)
        })?;
        Ok(Self {
            studio,
            thread: Some(thread),
        })
    }

    /// For one line, as long as what is returned lives.
    pub(in crate::playout) fn easel(&self, sitter: Arc<dyn Sitter>) -> impl Cards + use<> {
        let easel = Arc::new(Easel {
            sitter,
            desk: Mutex::default(),
        });
        self.studio.orders().easels.push(Arc::downgrade(&easel));
        Order {
            studio: self.studio.clone(),
            easel,
            wanted: None,
        }
    }
}

impl Drop for Artist {
    fn drop(&mut self) {
        self.studio.orders().stop = true;
        self.studio.ordered.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Artist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artist").finish_non_exhaustive()
    }
}

/// An output thread's side of an easel.
struct Order {
    studio: Arc<Studio>,
    easel: Arc<Easel>,
    wanted: Option<Wanted>,
}

impl Cards for Order {
    fn want(&mut self, format: Format, slate: &Slate) {
        if (self.wanted.as_ref()).is_some_and(|(known, kind)| *known == format && kind == slate) {
            return;
        }
        let wanted = (format, slate.clone());
        self.wanted = Some(wanted.clone());
        {
            let mut desk = self.easel.desk();
            // A card of another size is of no use; one of another kind is until its successor is drawn.
            let is_same_format = (desk.wanted.as_ref()).is_some_and(|(known, _)| *known == format);
            if !is_same_format {
                desk.bare = None;
            }
            desk.full = None;
            desk.fault = None;
            desk.wanted = Some(wanted);
        }
        self.studio.orders().is_new = true;
        self.studio.ordered.notify_all();
    }

    fn bare(&self) -> Option<Arc<Picture>> {
        let desk = self.easel.desk();
        desk.bare.as_ref().map(|drawn| drawn.picture.clone())
    }

    fn full(&self) -> Option<Arc<Picture>> {
        let desk = self.easel.desk();
        desk.full.as_ref().map(|drawn| drawn.picture.clone())
    }
}

impl Studio {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Easel {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a card down, unless something else is wanted by now.
    fn lay(&self, wanted: &Wanted, place: Place, drawn: Drawn) {
        let mut desk = self.desk();
        if desk.wanted.as_ref() == Some(wanted) {
            *desk.at(place) = Some(drawn);
        }
    }
}

#[derive(Clone, Copy)]
enum Place {
    Bare,
    Full,
}

impl Desk {
    fn at(&mut self, place: Place) -> &mut Option<Drawn> {
        match place {
            Place::Bare => &mut self.bare,
            Place::Full => &mut self.full,
        }
    }
}

fn run(studio: &Studio) {
    let mut hand = Hand::default();
    let mut wait = REST;
    loop {
        let easels = {
            let orders = studio.orders();
            let mut orders = (studio.ordered)
                .wait_timeout_while(orders, wait, |orders| !orders.is_new && !orders.stop)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if orders.stop {
                return;
            }
            orders.is_new = false;
            orders.easels.retain(|easel| easel.strong_count() > 0);
            orders.easels.clone()
        };
        wait = REST;
        for easel in easels.iter().filter_map(Weak::upgrade) {
            match panic::catch_unwind(AssertUnwindSafe(|| hand.serve(&easel))) {
                Ok(Again::Soon) => wait = LOOK_EVERY,
                Ok(Again::WhenAsked) => {}
                Err(_) => {
                    // What is drawn stays; whatever it was, it is not tried again until something else is wanted.
                    error!(line = easel.sitter.name(), "a card could not be drawn");
                    easel.desk().wanted = None;
                    hand = Hand::default();
                }
            }
        }
        hand.shared.retain(|_, picture| picture.strong_count() > 0);
    }
}

/// When an easel is to be looked at next.
enum Again {
    Soon,
    WhenAsked,
}

/// What it takes to draw.
#[derive(Default)]
struct Hand {
    typesetter: Option<Typesetter>,
    /// Cards that lines share, while one of them has it.
    shared: HashMap<Subject, Weak<Picture>>,
}

impl Hand {
    /// Draws what is wanted and not there.
    fn serve(&mut self, easel: &Easel) -> Again {
        let Some(wanted) = easel.desk().wanted.clone() else {
            return Again::WhenAsked;
        };
        let slate = &wanted.1;
        let name = || easel.sitter.name().to_owned();
        match slate {
            Slate::File(path) => {
                if self.own_card(easel, &wanted, path) {
                    return Again::WhenAsked;
                }
            }
            Slate::Clean | Slate::Diagnostic | Slate::Black => easel.sitter.fault(None),
        }
        let (bare, full, again) = match slate {
            Slate::Black => (What::Black, Some(What::Black), Again::WhenAsked),
            Slate::Clean => (What::Neutral, Some(What::Name(name())), Again::WhenAsked),
            Slate::File(_) => (What::Neutral, Some(What::Name(name())), Again::Soon),
            Slate::Diagnostic => {
                // Without a word of trouble there is a picture.
                let words = easel.sitter.words().map(|words| What::Words {
                    name: name(),
                    reason: words.reason,
                    remedy: words.remedy,
                });
                (What::Neutral, words, Again::Soon)
            }
        };
        self.draw(easel, &wanted, Place::Bare, bare);
        if let Some(full) = full {
            self.draw(easel, &wanted, Place::Full, full);
        }
        again
    }

    fn draw(&mut self, easel: &Easel, wanted: &Wanted, place: Place, what: What) {
        let format = wanted.0;
        let subject = Subject::new(format, what);
        let is_there = |drawn: &Drawn| drawn.subject == subject;
        if easel.desk().at(place).as_ref().is_some_and(is_there) {
            return;
        }
        let picture = self.shared(&subject, |hand| {
            let typesetter = hand.typesetter.get_or_insert_with(Typesetter::new);
            match &subject.what {
                What::Black => card::black(format),
                What::Name(name) => card::named(format, name, typesetter),
                What::Words {
                    name,
                    reason,
                    remedy,
                } => {
                    let words = Words {
                        reason: reason.clone(),
                        remedy: remedy.clone(),
                    };
                    card::diagnostic(format, name, &words, typesetter)
                }
                What::Neutral | What::File(_) => card::card(format),
            }
        });
        easel.lay(wanted, place, Drawn { subject, picture });
    }

    /// Lays the studio's own card down; `false`: it can't be shown, and the neutral one has to do.
    fn own_card(&mut self, easel: &Easel, wanted: &Wanted, path: &str) -> bool {
        let subject = Subject::new(wanted.0, What::File(path.to_owned()));
        {
            let mut desk = easel.desk();
            if desk
                .full
                .as_ref()
                .is_some_and(|drawn| drawn.subject == subject)
            {
                return true;
            }
            if let Some(fault) = desk.fault.as_mut().filter(|fault| fault.looks_left > 0) {
                fault.looks_left -= 1;
                return false;
            }
        }
        let line = easel.sitter.name();
        let own = match self.shared.get(&subject).and_then(Weak::upgrade) {
            Some(picture) => Ok(picture),
            None => {
                image::load(path).map(|own| self.shared(&subject, |_| image::place(&own, wanted.0)))
            }
        };
        match own {
            Ok(picture) => {
                if easel.desk().fault.take().is_some() {
                    info!(line, path, "the slate can be shown now");
                }
                easel.sitter.fault(None);
                for place in [Place::Bare, Place::Full] {
                    let (subject, picture) = (subject.clone(), picture.clone());
                    easel.lay(wanted, place, Drawn { subject, picture });
                }
                true
            }
            Err(error) => {
                let message = format!("{error}. Line {line:?} has the neutral card meanwhile");
                let fault = Fault {
                    message: message.clone(),
                    looks_left: RETRY_LOOKS,
                };
                let known = easel.desk().fault.replace(fault);
                if known.is_none_or(|known| known.message != message) {
                    error!("{message}");
                }
                easel.sitter.fault(Some(&message));
                false
            }
        }
    }

    /// The card that another line has already, or a new one.
    fn shared(
        &mut self,
        subject: &Subject,
        draw: impl FnOnce(&mut Self) -> Picture,
    ) -> Arc<Picture> {
        if let Some(picture) = self.shared.get(subject).and_then(Weak::upgrade) {
            return picture;
        }
        let picture = Arc::new(draw(self));
        self.shared
            .insert(subject.clone(), Arc::downgrade(&picture));
        picture
    }
}

impl Subject {
    fn new(format: Format, what: What) -> Self {
        Self {
            format: (format.width, format.height, format.aspect.to_bits()),
            what,
        }
    }
}

/// How soon a rehearsal's card follows what is wrong.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A file that could not be read is tried again after so many looks: 10 s.
const RETRY_LOOKS: u32 = 20;

/// Nothing changes by itself.
const REST: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use super::*;

    #[derive(Default)]
    struct Line {
        words: Mutex<Option<Words>>,
        looks: AtomicUsize,
        fault: Mutex<Option<String>>,
    }

    impl Sitter for Line {
        fn name(&self) -> &'static str {
            "Camera 1"
        }

        fn words(&self) -> Option<Words> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.words.lock().unwrap().clone()
        }

        fn fault(&self, fault: Option<&str>) {
            *self.fault.lock().unwrap() = fault.map(str::to_owned);
        }
    }

    fn soon<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "still waiting");
            thread::sleep(Duration::from_millis(5));
        }
    }

    const SMALL: Format = Format {
        width: 320,
        height: 180,
        aspect: 16.0 / 9.0,
    };

    #[test]
    fn lines_share_the_bare_card_and_have_their_own_name() {
        let artist = Artist::start().unwrap();
        let sitters = [Arc::new(Line::default()), Arc::new(Line::default())];
        let mut easels = sitters.clone().map(|sitter| artist.easel(sitter));
        for easel in &mut easels {
            assert!(easel.bare().is_none(), "nothing was wanted");
            easel.want(SMALL, &Slate::Clean);
        }
        let full = easels.each_ref().map(|easel| soon(|| easel.full()));
        let bare = easels.each_ref().map(|easel| easel.bare().unwrap());
        assert!(Arc::ptr_eq(&bare[0], &bare[1]));
        assert!(
            Arc::ptr_eq(&full[0], &full[1]),
            "the same name, as it happens"
        );
        assert_ne!(*bare[0].pixels, *full[0].pixels);
        easels[0].want(SMALL, &Slate::Clean);
        assert!(
            easels[0].full().is_some(),
            "wanted again is not drawn again"
        );
        easels[0].want(SMALL, &Slate::Black);
        let black = soon(|| easels[0].full());
        assert!(black.pixels.chunks_exact(2).all(|pixel| pixel[1] == 16));
        assert!(
            easels[1]
                .full()
                .is_some_and(|card| Arc::ptr_eq(&card, &full[1]))
        );
    }

    #[test]
    fn a_rehearsal_card_follows_what_is_wrong_and_is_drawn_once_for_it() {
        let artist = Artist::start().unwrap();
        let line = Arc::new(Line::default());
        let mut easel = artist.easel(line.clone());
        easel.want(SMALL, &Slate::Diagnostic);
        let bare = soon(|| easel.bare());
        assert!(easel.full().is_none(), "nothing is wrong");
        let say = |reason: &str| {
            *line.words.lock().unwrap() = Some(Words {
                reason: reason.to_owned(),
                remedy: "Wait.".to_owned(),
            });
        };
        say("The encoder left.");
        let left = soon(|| easel.full());
        assert_ne!(*left.pixels, *bare.pixels);
        let looks = line.looks.load(Ordering::Relaxed);
        soon(|| (line.looks.load(Ordering::Relaxed) > looks + 1).then_some(()));
        assert!(easel.full().is_some_and(|card| Arc::ptr_eq(&card, &left)));
        say("The relay left.");
        soon(|| {
            easel
                .full()
                .filter(|card| card.pixels[..] != left.pixels[..])
        });
        // Turned off: what could be read is gone at once, before anything is drawn.
        easel.want(SMALL, &Slate::Clean);
        assert!(easel.bare().is_some());
    }

    #[test]
    fn a_bad_file_is_told_once_and_the_neutral_card_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card.png").to_str().unwrap().to_owned();
        let artist = Artist::start().unwrap();
        let line = Arc::new(Line::default());
        let mut easel = artist.easel(line.clone());
        easel.want(SMALL, &Slate::File(path.clone()));
        let named = soon(|| easel.full());
        let fault = line.fault.lock().unwrap().clone().unwrap();
        assert!(
            fault.contains(&path) && fault.contains("No such file") && fault.contains("put a PNG"),
            "{fault}"
        );
        assert_ne!(
            *easel.bare().unwrap().pixels,
            *named.pixels,
            "the name only off program"
        );

        ::image::RgbImage::from_pixel(32, 18, ::image::Rgb([255, 255, 255]))
            .save(&path)
            .unwrap();
        easel.want(SMALL, &Slate::Clean);
        easel.want(SMALL, &Slate::File(path));
        let own = soon(|| easel.full().filter(|card| card.pixels[1] == 235));
        assert!(
            easel.bare().is_some_and(|bare| Arc::ptr_eq(&bare, &own)),
            "on program too"
        );
        assert_eq!(*line.fault.lock().unwrap(), None);
    }
}
