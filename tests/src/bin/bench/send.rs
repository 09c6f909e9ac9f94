//! A sender that reads no files: its messages lie framed in memory, and only the UIDs change from one to the next.
//!
//! It shows what the receiver can take, not what a sender can give. With Nagle's algorithm left on it writes as DCMTK does.

use std::io::Write;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Barrier;
use std::time::Instant;

use dicom_dictionary_std::uids;
use dicom_ul::association::ClientAssociationOptions;
use scp_node::dimse::{Command, CommandField, Status, message};
use serde_json::{Value, json};
use tests::sender::read_status;

use super::objects;

/// Sends the images of these numbers over `associations` at once, which share them.
pub(crate) fn run(
    address: &str,
    called_ae: &str,
    associations: usize,
    images: Range<usize>,
    pdu_length: u32,
    nagle: bool,
) -> Value {
    // Messages are framed and associations open before the clock runs.
    let ready = Barrier::new(associations + 1);
    let (sums, begin): (Vec<(u64, usize)>, Instant) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..associations)
            .map(|worker| {
                let numbers = images.clone().skip(worker).step_by(associations);
                let ready = &ready;
                scope.spawn(move || send(address, called_ae, numbers, pdu_length, nagle, ready))
            })
            .collect();
        ready.wait();
        let begin = Instant::now();
        (workers.into_iter().map(|w| w.join().expect("a sender")).collect(), begin)
    });
    let seconds = begin.elapsed().as_secs_f64();
    let bytes: u64 = sums.iter().map(|s| s.0).sum();
    let failed: usize = sums.iter().map(|s| s.1).sum();
    json!({"images": images.len(), "bytes": bytes, "failed": failed, "seconds": seconds})
}

/// A message whose UID can be changed in place.
struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
    uid_length: usize,
}

impl Template {
    fn new(n: usize, context_id: u8, pdu_length: u32) -> Self {
        let uid = objects::sop_instance_uid(n);
        let mut command = Command::request(CommandField::CStoreRq, 1, uids::RT_IMAGE_STORAGE);
        command.sop_instance_uid = Some(uid.clone());
        command.has_data_set = true;
        let bytes = message::encode(context_id, &command, &objects::data_set(n), pdu_length);
        // In the command set and near the beginning of the data set; never cut by a fragment's end.
        let head = bytes.get(..2048).expect("an image is longer");
        let places: Vec<usize> = head
            .windows(uid.len())
            .enumerate()
            .filter(|(_, w)| *w == uid.as_bytes())
            .map(|(at, _)| at)
            .collect();
        assert_eq!(places.len(), 2, "the UID stands in the command and in the data set");
        Self { bytes, places, uid_length: uid.len() }
    }

    fn set_number(&mut self, n: usize) {
        let uid = objects::sop_instance_uid(n);
        assert_eq!(uid.len(), self.uid_length);
        for at in &self.places {
            self.bytes.get_mut(*at..at + uid.len()).expect("found there").copy_from_slice(uid.as_bytes());
        }
    }
}

fn send(
    address: &str,
    called_ae: &str,
    numbers: impl Iterator<Item = usize>,
    pdu_length: u32,
    nagle: bool,
    ready: &Barrier,
) -> (u64, usize) {
    let mut association = ClientAssociationOptions::new()
        .calling_ae_title("BENCH")
        .called_ae_title(called_ae)
        .max_pdu_length(pdu_length)
        .with_presentation_context(uids::RT_IMAGE_STORAGE, vec![uids::IMPLICIT_VR_LITTLE_ENDIAN])
        .establish(address)
        .expect("an association");
    let context_id = association.presentation_contexts().first().expect("a presentation context").id;
    let pdu_length = association.acceptor_max_pdu_length().min(pdu_length);
    // Even numbers are aS1200, odd ones aS1000.
    let mut templates = [Template::new(0, context_id, pdu_length), Template::new(1, context_id, pdu_length)];
    let stream = association.inner_stream();
    stream.set_nodelay(!nagle).unwrap();
    let (mut bytes, mut failed) = (0, 0);
    ready.wait();
    for n in numbers {
        let template = templates.get_mut(n % 2).expect("two of them");
        template.set_number(n);
        let written =
            if nagle { write_in_pieces(stream, &template.bytes) } else { stream.write_all(&template.bytes) };
        written.expect("the receiver takes the message");
        bytes += template.bytes.len() as u64;
        failed += usize::from(read_status(stream).expect("a response") != Status::SUCCESS);
    }
    association.release().expect("a release");
    (bytes, failed)
}

/// As DCMTK writes: of each P-DATA-TF PDU first the heads of PDU and fragment (12 bytes), then the fragment.
fn write_in_pieces(stream: &mut TcpStream, mut message: &[u8]) -> std::io::Result<()> {
    while let Some((head, rest)) = message.split_first_chunk::<12>() {
        let [_, _, l0, l1, l2, l3, ..] = *head;
        let fragment = u32::from_be_bytes([l0, l1, l2, l3]) as usize - 6;
        let (fragment, rest) = rest.split_at(fragment);
        stream.write_all(head)?;
        stream.write_all(fragment)?;
        message = rest;
    }
    Ok(())
}
