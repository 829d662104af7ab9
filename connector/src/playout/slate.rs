//! What a source shows while its feed has no picture.
//!
//! | | |
//! |---|---|
//! | [`rule`] | which of three: the last picture, the bare card, the full one. Pure |
//! | [`words`] | what a diagnostic card says. Pure |
//! | [`card`] | the pixels of a card. Pure |
//! | [`text`], [`image`] | text in any script, and the studio's own picture |
//! | [`artist`] | the thread that draws cards, so that no output thread ever does |
//!
//! Every card exists twice. The *bare* one has nothing to read and may be on program; the *full* one has the line's
//! name, or for a rehearsal what is wrong, and may not. A card of the studio's own is the same both times.

mod artist;
mod card;
mod image;
mod rule;
mod text;
mod words;

use std::fmt;

use crate::output::Picture;

pub use self::{artist::Artist, image::ImageError};
pub(super) use self::{
    artist::{Cards, Sitter},
    card::card as neutral,
    rule::{Rule, Shown},
    words::Words,
};

/// Which card a line shows while it has no picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Slate {
    /// The neutral card, with the line's name while it is off program.
    #[default]
    Clean,
    /// For rehearsals: what is wrong and what to do, while it is off program.
    Diagnostic,
    /// Black.
    Black,
    /// The studio's own picture, a PNG or JPEG at this absolute path.
    File(String),
}

impl Slate {
    /// From `clean` (`card` in earlier versions), `diagnostic`, `black` or an absolute path.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "clean" | "card" => Some(Self::Clean),
            "diagnostic" => Some(Self::Diagnostic),
            "black" => Some(Self::Black),
            path => (std::path::Path::new(path).is_absolute()).then(|| Self::File(path.to_owned())),
        }
    }

    /// Reads and throws away the studio's own picture, to know whether it can be shown.
    pub fn check(&self) -> Result<(), ImageError> {
        match self {
            Self::File(path) => image::load(path).map(drop),
            Self::Clean | Self::Diagnostic | Self::Black => Ok(()),
        }
    }
}

impl fmt::Display for Slate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Diagnostic => "diagnostic",
            Self::Black => "black",
            Self::File(path) => path,
        })
    }
}

/// What can be read on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardText<'a> {
    /// Nothing.
    None,
    /// The line's name.
    Name(&'a str),
    /// Of a rehearsal.
    Diagnosis {
        /// The line's.
        name: &'a str,
        /// What is wrong.
        reason: &'a str,
        /// What to do.
        remedy: &'a str,
    },
}

impl CardText<'_> {
    /// The neutral card with this on it, as a source of this size shows it. Takes tens of milliseconds.
    pub fn draw(self, width: u32, height: u32) -> Picture {
        let format = Format {
            width,
            height,
            ..Format::DEFAULT
        };
        let mut typesetter = text::Typesetter::new();
        match self {
            Self::None => neutral(format),
            Self::Name(name) => card::named(format, name, &mut typesetter),
            Self::Diagnosis {
                name,
                reason,
                remedy,
            } => {
                let words = Words {
                    reason: reason.to_owned(),
                    remedy: remedy.to_owned(),
                };
                card::diagnostic(format, name, &words, &mut typesetter)
            }
        }
    }
}

/// The size of a card, and the shape of the picture it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Format {
    /// Pixels; even, not 0.
    pub(super) width: u32,
    /// Pixels, not 0.
    pub(super) height: u32,
    /// Of the shown picture, width / height: pixels need not be square.
    pub(super) aspect: f32,
}

impl Format {
    /// Of a source that never had a feed.
    pub(super) const DEFAULT: Self = Self {
        width: 1280,
        height: 720,
        aspect: 16.0 / 9.0,
    };

    /// Of a source that shows this.
    #[expect(clippy::cast_precision_loss, reason = "a picture's size")]
    pub(super) fn of(picture: &Picture) -> Self {
        let &Picture {
            width,
            height,
            aspect,
            ..
        } = picture;
        let is_sane = aspect.is_finite() && aspect > 0.0;
        Self {
            width,
            height,
            aspect: if is_sane {
                aspect
            } else {
                width as f32 / height.max(1) as f32
            },
        }
    }
}
