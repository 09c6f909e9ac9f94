//! C-MOVE's other half: the association to the destination, and one C-STORE per object.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::association::{AsyncClientAssociation, ClientAssociationOptions};
use tokio::net::TcpStream;

use super::message::{Message, receive_message, send_message};
use super::patient::Instance;
use crate::dimse::{Command, CommandField, Status};

/// How long the archive waits for the destination.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open association to the destination.
pub(super) struct Mover {
    association: AsyncClientAssociation<TcpStream>,
    message_id: u16,
}

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mover").field("message_id", &self.message_id).finish_non_exhaustive()
    }
}

impl Mover {
    /// Associates with the destination for the SOP classes of these objects.
    pub(super) async fn open(
        address: SocketAddr,
        own_ae: &str,
        destination_ae: &str,
        instances: &[&Instance],
    ) -> io::Result<Self> {
        let mut classes: Vec<String> = instances.iter().map(|i| i.sop_class_uid()).collect();
        classes.sort();
        classes.dedup();
        let mut options = ClientAssociationOptions::new()
            .calling_ae_title(own_ae)
            .called_ae_title(destination_ae)
            .connection_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .write_timeout(PATIENCE);
        for class in classes {
            options =
                options.with_presentation_context(class, vec![uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned()]);
        }
        let mut association = options.establish_async(address).await.map_err(io::Error::other)?;
        association.inner_stream().set_nodelay(true)?;
        Ok(Self { association, message_id: 0 })
    }

    /// Stores one object and waits for the answer.
    pub(super) async fn store(&mut self, instance: &Instance, originator: (&str, u16)) -> io::Result<Status> {
        let class = instance.sop_class_uid();
        let contexts = self.association.presentation_contexts();
        let accepted = contexts.iter().find(|c| c.abstract_syntax == class);
        let Some(context_id) = accepted.map(|c| c.id) else {
            return Ok(Status::CLASS_NOT_SUPPORTED);
        };
        self.message_id = self.message_id.wrapping_add(1);
        let mut command = Command::request(CommandField::CStoreRq, self.message_id, &class);
        command.sop_instance_uid = Some(instance.sop_instance_uid());
        command.has_data_set = true;
        command.move_originator_ae = Some(originator.0.to_owned());
        command.move_originator_id = Some(originator.1);
        let data = instance.data_set().map_err(io::Error::other)?;
        send_message(&mut self.association, context_id, &command, &data).await?;
        match receive_message(&mut self.association).await? {
            Message::Dimse { command, .. } => Ok(command.status.unwrap_or(Status::PROCESSING_FAILURE)),
            Message::Release | Message::Gone => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Releases the association.
    pub(super) async fn close(self) {
        // The archive has what it wanted; a peer that does not answer the release changes nothing.
        let _ = self.association.release().await;
    }
}
