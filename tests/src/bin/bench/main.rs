//! What `tests/bench/*` measure with: an in-memory sender, a receiver that does the least, the disk's own pace, and files to send.
//!
//! Each subcommand prints one line of JSON.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be set up has no result"
)]
#![expect(clippy::indexing_slicing, reason = "bytes of our own")]
#![expect(clippy::print_stdout, reason = "the result")]

mod catalog;
mod disk;
mod objects;
mod send;
mod sink;

use std::path::PathBuf;

use disk::Pattern;

const USAGE: &str = "bench files DIRECTORY FIRST COUNT | send HOST:PORT CALLED_AE ASSOCIATIONS FIRST COUNT PDU_LENGTH nodelay|nagle | sink PORT [DIRECTORY full|rename] | disk DIRECTORY COUNT THREADS full|rename | catalog DIRECTORY IMAGES";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().expect(USAGE);
    let result = match args.as_slice() {
        ["files", directory, first, count] => {
            objects::write(&PathBuf::from(directory), number(first)..number(first) + number(count))
        }
        [
            "send",
            address,
            called_ae,
            associations,
            first,
            count,
            pdu_length,
            nagle @ ("nodelay" | "nagle"),
        ] => {
            let numbers = number(first)..number(first) + number(count);
            let pdu_length = number(pdu_length) as u32;
            send::run(address, called_ae, number(associations), numbers, pdu_length, *nagle == "nagle")
        }
        ["sink", port] => sink::run(number(port) as u16, None),
        ["sink", port, directory, durability @ ("full" | "rename")] => {
            let pattern = Pattern::new(&PathBuf::from(directory), *durability == "full");
            sink::run(number(port) as u16, Some(pattern))
        }
        ["disk", directory, count, threads, durability @ ("full" | "rename")] => {
            let pattern = Pattern::new(&PathBuf::from(directory), *durability == "full");
            disk::run(&pattern, number(count), number(threads))
        }
        ["catalog", directory, images] => catalog::run(&PathBuf::from(directory), number(images)),
        _ => {
            eprintln!("usage: {USAGE}");
            std::process::exit(2);
        }
    };
    println!("{result}");
}
