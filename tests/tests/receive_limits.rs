//! Limits per peer, told from limits of all: Linux, whose loopback interface has more than one address.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::pdu::{AssociationRQ, Pdu, PresentationContextProposed, UserVariableItem, write_pdu};
use scp_node::dimse::{Command, CommandField, Status, message};
use tests::node::{NODE_AE, Node};
use tests::peers::until;
use tests::sender::read_status;

const PATIENCE: Duration = Duration::from_secs(30);
const PDU_LENGTH: u32 = 16_384;

/// An association for C-ECHO from this address, and else the A-ASSOCIATE-RJ's result, source and reason.
fn associate(node: SocketAddr, from: Ipv4Addr) -> Result<TcpStream, [u8; 3]> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&node.into()).unwrap();
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let context = PresentationContextProposed {
        id: 1,
        abstract_syntax: uids::VERIFICATION.into(),
        transfer_syntaxes: vec![uids::IMPLICIT_VR_LITTLE_ENDIAN.into()],
    };
    let request = Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "SENDER".into(),
        called_ae_title: NODE_AE.into(),
        application_context_name: scp_node::dimse::identity::APPLICATION_CONTEXT.into(),
        presentation_contexts: vec![context],
        user_variables: vec![UserVariableItem::MaxLength(PDU_LENGTH)],
    });
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &request).unwrap();
    socket.write_all(&bytes).unwrap();
    let mut head = [0; 6];
    socket.read_exact(&mut head).unwrap();
    let [kind, _, length @ ..] = head;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut answer).unwrap();
    match (kind, answer.as_slice()) {
        (2, _) => Ok(socket),
        (3, [_, reason @ ..]) => Err(reason.try_into().unwrap()),
        other => panic!("neither accepted nor rejected: {other:?}"),
    }
}

fn is_served(mut association: &TcpStream) {
    let echo = Command::request(CommandField::CEchoRq, 1, uids::VERIFICATION);
    association.write_all(&message::encode(1, &echo, &[], PDU_LENGTH)).unwrap();
    let mut association = association.try_clone().unwrap();
    assert_eq!(read_status(&mut association).unwrap(), Status::SUCCESS);
}

#[test]
fn a_peer_at_its_limit_keeps_no_other_out() {
    /// Transient, by the presentation service, local limit exceeded. Source: PS3.8 §9.3.4.
    const LIMIT_EXCEEDED: [u8; 3] = [2, 3, 2];
    let root = tempfile::tempdir().unwrap();
    let node =
        Node::start(root.path(), &["node.limits.associations=8", "node.limits.associations_per_peer=2"]);
    let (one, other) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    let associate = |from| associate(node.address(), from);
    let of_one = [associate(one).unwrap(), associate(one).unwrap()];
    assert_eq!(associate(one).unwrap_err(), LIMIT_EXCEEDED);
    let of_other = [associate(other).unwrap(), associate(other).unwrap()];
    assert_eq!(associate(other).unwrap_err(), LIMIT_EXCEEDED);
    of_one.iter().chain(&of_other).for_each(is_served);
    // A place that one leaves is his own again, whatever the other has.
    let [leaves, stays] = of_one;
    drop(leaves);
    until("the place is free", PATIENCE, || {
        associate(one).is_ok_and(|again| {
            is_served(&again);
            true
        })
    });
    assert_eq!(associate(other).unwrap_err(), LIMIT_EXCEEDED);
    is_served(&stays);
}
