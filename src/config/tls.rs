//! Combines the TLS settings of a port with those of `[tls]`.

use std::path::PathBuf;

use super::{Config, TlsMode};
use crate::{
    socket::Protocol,
    tls::{Clients, NamedFile, Settings},
};

/// A setting of a port and the setting of `[tls]` that applies without it.
struct Pair<'a, T> {
    own: (&'static str, Option<&'a T>),
    shared: (&'static str, Option<&'a T>),
}

impl<'a, T> Pair<'a, T> {
    /// Returns the value in effect and the key of its setting.
    fn effective(&self) -> Option<(&'static str, &'a T)> {
        let with_key = |(key, value): (&'static str, Option<&'a T>)| value.map(|value| (key, value));
        with_key(self.own).or_else(|| with_key(self.shared))
    }
}

/// TLS settings of one port, before they are checked.
struct Of<'a> {
    mode: Pair<'a, TlsMode>,
    certificate: Pair<'a, PathBuf>,
    key: Pair<'a, PathBuf>,
    client_ca: Pair<'a, PathBuf>,
}

/// Returns the settings of a port whose section of the configuration is `$section`.
macro_rules! of {
    ($config:ident, $section:ident) => {{
        let (own, shared) = (&$config.$section, &$config.tls);
        Of {
            mode: Pair {
                own: (concat!(stringify!($section), ".tls_mode"), own.tls_mode.as_ref()),
                shared: ("tls.mode", Some(&shared.mode)),
            },
            certificate: Pair {
                own: (concat!(stringify!($section), ".tls_cert_file"), own.tls_cert_file.as_ref()),
                shared: ("tls.cert_file", shared.cert_file.as_ref()),
            },
            key: Pair {
                own: (concat!(stringify!($section), ".tls_key_file"), own.tls_key_file.as_ref()),
                shared: ("tls.key_file", shared.key_file.as_ref()),
            },
            client_ca: Pair {
                own: (concat!(stringify!($section), ".tls_client_ca_file"), own.tls_client_ca_file.as_ref()),
                shared: ("tls.client_ca_file", shared.client_ca_file.as_ref()),
            },
        }
    }};
}

/// A setting that is missing: the key of the mode that requires it, and the message.
type Missing = (&'static str, String);

impl Config {
    /// Returns the TLS settings of a port; `None` = no TLS.
    ///
    /// # Errors
    /// The key of the mode that requires a missing file, and a message.
    pub fn tls_of(&self, port: Protocol) -> Result<Option<Settings>, (&'static str, String)> {
        let of = match port {
            Protocol::Grpc => of!(self, grpc),
            Protocol::Resp => of!(self, resp),
            Protocol::Http => of!(self, http),
        };
        let (mode_key, mode) = of.mode.effective().unwrap_or(("tls.mode", &TlsMode::Off));
        let file = |pair: &Pair<'_, PathBuf>| required(mode_key, *mode, pair);
        if *mode == TlsMode::Off {
            return Ok(None);
        }
        let clients = match mode {
            TlsMode::Off | TlsMode::On => Clients::Ignored,
            TlsMode::Mutual => Clients::Required(file(&of.client_ca)?),
            TlsMode::Optional => Clients::Optional(file(&of.client_ca)?),
        };
        let min_version = self.tls.min_version;
        Ok(Some(Settings { certificate: file(&of.certificate)?, key: file(&of.key)?, clients, min_version }))
    }
}

fn required(mode_key: &'static str, mode: TlsMode, pair: &Pair<'_, PathBuf>) -> Result<NamedFile, Missing> {
    if let Some((setting, path)) = pair.effective() {
        return Ok(NamedFile { setting, path: path.clone() });
    }
    let name = super::TLS_MODE.iter().find(|(_, named)| *named == mode).map_or("?", |(name, _)| name);
    let (own, shared) = (pair.own.0, pair.shared.0);
    // Ports that share the mode share the message.
    let expected = if mode_key == "tls.mode" { shared.to_owned() } else { format!("{own} or {shared}") };
    Err((mode_key, format!("{mode_key}: {name:?} requires {expected}, which is not set")))
}

/// Returns the files that the modes of all ports require and that are not set.
pub(super) fn faults(config: &Config) -> Vec<Missing> {
    let mut faults: Vec<Missing> = Protocol::ALL.iter().filter_map(|port| config.tls_of(*port).err()).collect();
    faults.dedup();
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_port_take_precedence() {
        let mut config = Config::default();
        assert_eq!(config.tls_of(Protocol::Grpc), Ok(None));
        config.tls.mode = TlsMode::On;
        assert_eq!(faults(&config), [("tls.mode", "tls.mode: \"on\" requires tls.cert_file, which is not set".into())]);
        config.tls.cert_file = Some("shared.crt".into());
        config.tls.key_file = Some("shared.key".into());
        config.http.tls_mode = Some(TlsMode::Off);
        config.resp.tls_mode = Some(TlsMode::Mutual);
        config.resp.tls_cert_file = Some("resp.crt".into());
        assert_eq!(config.tls_of(Protocol::Http), Ok(None));
        let why = "resp.tls_mode: \"mutual\" requires resp.tls_client_ca_file or tls.client_ca_file, which is not set";
        assert_eq!(faults(&config), [("resp.tls_mode", why.into())]);
        config.tls.client_ca_file = Some("ca.crt".into());
        let of_resp = config.tls_of(Protocol::Resp).unwrap().unwrap();
        let file = |setting, path: &str| NamedFile { setting, path: path.into() };
        assert_eq!(of_resp.certificate, file("resp.tls_cert_file", "resp.crt"));
        assert_eq!(of_resp.key, file("tls.key_file", "shared.key"));
        assert_eq!(of_resp.clients, Clients::Required(file("tls.client_ca_file", "ca.crt")));
        assert_eq!(config.tls_of(Protocol::Grpc).unwrap().unwrap().clients, Clients::Ignored);
    }
}
