//! Orthanc, set up to behave like Aria's DB Service: it answers nobody it does not know.

use std::process::Command;

use serde_json::json;

use super::{Destination, LOADER, PeerArchive, Process, free_port, require, tool};

/// Aria takes a multi-valued Image Type key as one value; Orthanc takes `\` as "any of". `?` matches the separator.
const IMAGE_TYPE_AS_ONE_VALUE: &str = r#"
function IncomingFindRequestFilter(query, origin)
  local key = query['0008,0008']
  if type(key) == 'string' then query['0008,0008'] = string.gsub(key, '\\', '?') end
  return query
end
"#;

impl PeerArchive {
    /// Starts Orthanc; `None` when it is not installed.
    pub fn orthanc(destinations: &[Destination]) -> Option<Self> {
        Self::orthanc_with(destinations, json!({}))
    }

    /// Likewise, with some of its settings changed.
    pub fn orthanc_with(destinations: &[Destination], changes: serde_json::Value) -> Option<Self> {
        let program = require("Orthanc", tool("Orthanc"))?;
        require("DCMTK's storescu", tool("storescu"))?;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("aria.lua"), IMAGE_TYPE_AS_ONE_VALUE).unwrap();
        let port = free_port();
        let loader = json!({"AET": LOADER, "Host": "127.0.0.1", "Port": 1, "AllowStore": true, "AllowEcho": true,
            "AllowFind": false, "AllowMove": false, "AllowGet": false});
        let mut modalities = serde_json::Map::from_iter([("loader".to_owned(), loader)]);
        for (n, d) in destinations.iter().enumerate() {
            let node = json!({"AET": d.ae_title, "Host": "127.0.0.1", "Port": d.port, "AllowEcho": true,
                "AllowFind": true, "AllowMove": true, "AllowStore": false, "AllowGet": false});
            modalities.insert(format!("node{n}"), node);
        }
        let mut settings = json!({
            "StorageDirectory": at("db"), "IndexDirectory": at("db"), "HttpServerEnabled": false,
            "DicomAet": "ORTHANC", "DicomPort": port, "DicomCheckCalledAet": true, "DicomCheckModalityHost": true,
            "DicomAlwaysAllowEcho": false, "DicomAlwaysAllowStore": false, "DicomAlwaysAllowFind": false,
            "DicomAlwaysAllowMove": false, "DicomAlwaysAllowGet": false, "DicomAlwaysAllowFindWorklist": false,
            "DicomModalities": modalities, "LuaScripts": [at("aria.lua")], "SynchronousCMove": true,
            "StorageAccessOnFind": "Always", "DicomScuPreferredTransferSyntax": "1.2.840.10008.1.2",
            "TranscodeDicomProtocol": false, "Plugins": [], "StorageCompression": false,
        });
        if let (Some(settings), Some(changes)) = (settings.as_object_mut(), changes.as_object()) {
            settings.extend(changes.clone());
        }
        std::fs::write(at("orthanc.json"), settings.to_string()).unwrap();
        let mut command = Command::new(program);
        command.arg(at("orthanc.json")).current_dir(directory.path());
        let process = Process::start(command, &at("log"), port);
        Some(Self { name: "Orthanc", ae_title: "ORTHANC", port, process, directory })
    }
}
