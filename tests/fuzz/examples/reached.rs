//! What the corpora of `session` and `conversation` reach: states, events and ends, each with the inputs that do.

use std::{collections::BTreeMap, fs, path::Path};

use arbitrary::{Arbitrary, Unstructured};
use firstmile_fuzz::{
    Driven, connection,
    operations::{Operation, converse},
};

fn main() -> std::io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.join("../../target/fuzz/corpus");
    for target in ["session", "conversation"] {
        let mut reached = BTreeMap::<String, u64>::new();
        let mut inputs = 0;
        let seeds = fs::read_dir(here.join("corpus").join(target)).into_iter();
        let more = fs::read_dir(found.join(target)).into_iter();
        for entry in seeds.chain(more).flatten() {
            let bytes = fs::read(entry?.path())?;
            let driven = match target {
                "session" => {
                    let mut driven = Driven::new(1, true);
                    connection(&bytes, &mut driven);
                    driven
                }
                _ => match Vec::<Operation>::arbitrary_take_rest(Unstructured::new(&bytes)) {
                    Ok(operations) => converse(&operations),
                    Err(_) => continue,
                },
            };
            inputs += 1;
            for what in driven.reached.keys() {
                *reached.entry(what.clone()).or_default() += 1;
            }
        }
        println!("{target}: {inputs} inputs");
        for (what, count) in reached {
            println!("  {count:6}  {what}");
        }
    }
    Ok(())
}
