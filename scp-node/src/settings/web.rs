//! `[web]`: the status page, `/metrics` and `/healthz`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::wrong;
use crate::error::Result;

/// `[web]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSettings {
    /// Address and port; empty: no page. There is no login: another address than this computer's own shows everyone on
    /// that network how the service is (never a patient).
    pub bind: String,
}

impl Default for WebSettings {
    fn default() -> Self {
        Self { bind: "127.0.0.1:8104".into() }
    }
}

impl WebSettings {
    /// Where to listen; `None`: nowhere.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::Error::Settings) when it is no address with a port.
    pub fn address(&self) -> Result<Option<SocketAddr>> {
        match self.bind.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let what = format!(
                    "`{text}` is no address with a port, such as 127.0.0.1:8104 or 0.0.0.0:8104; empty switches it off"
                );
                wrong("web.bind", what)
            }),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        self.address().map(drop)
    }
}
