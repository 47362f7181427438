//! Checks the constraints between settings.

use super::{Address, Config, L2, fault::Fault, form::show_size, tls};
use crate::{access::GuestRole, model::KEY_MAX_BYTES};

/// Bytes that a message needs for the key and framing, in addition to the value.
const FRAMING_BYTES: u64 = KEY_MAX_BYTES as u64 + 1024;

/// Returns the faults of combinations of settings. `fault_at` creates a fault with the place where a key was set.
pub(super) fn check(config: &Config, fault_at: impl Fn(&str, String) -> Fault) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, message: String| faults.push(fault_at(key, message));
    let addresses =
        [("grpc.addr", &config.grpc.addr), ("resp.addr", &config.resp.addr), ("http.addr", &config.http.addr)];
    let addresses = addresses.map(|(key, text)| (key, text, Address::parse(text)));
    let health = config.http.health_addr.as_ref().map(|text| ("http.health_addr", text, Address::parse(text)));
    let addresses: Vec<_> = addresses.into_iter().chain(health).collect();
    for (index, (key, text, address)) in addresses.iter().enumerate() {
        let Ok(address) = address else { continue };
        // The health port shows no keys.
        let is_reachable = !address.is_loopback() && *key != "http.health_addr" && config.auth.file.is_none();
        // The password covers the RESP port only.
        let has_password = *key == "resp.addr" && config.resp.password_file.is_some();
        if is_reachable && !config.server.expose {
            let message = format!("{key}: {text} is not a loopback address; ");
            fault(key, message + "set auth.file, or server.expose = true (--expose) and auth.anonymous");
        } else if is_reachable && config.auth.anonymous == GuestRole::Auto && !has_password {
            let roles = "set auth.file, or auth.anonymous = \"none\" | \"scraper\" | \"reader\" | \"admin\"";
            fault(key, format!("{key}: {text} is reachable by others and auth.anonymous is not set; {roles}"));
        }
        for (other_key, other_text, other) in &addresses[..index] {
            if other.as_ref().is_ok_and(|other| address.clashes(other)) {
                fault(key, format!("{key}: {text} and {other_key}: {other_text} use the same port or path"));
            }
        }
    }
    for (key, message) in tls::faults(config) {
        fault(key, message);
    }
    let (value, message) = (config.server.max_value, config.grpc.max_message);
    if value + FRAMING_BYTES > message {
        let room = show_size(FRAMING_BYTES);
        let sizes = format!("server.max_value {} and {room} for key and framing", show_size(value));
        fault("server.max_value", format!("{sizes} do not fit in grpc.max_message {}", show_size(message)));
    }
    for (key, message) in faults_of_l2_login(&config.l2, &fault_at("l2.url", String::new()).at) {
        fault(key, message);
    }
    if config.auth.file.is_some() && config.resp.password_file.is_some() {
        let message = "auth.file and resp.password_file are both set; add the user to auth.file instead";
        fault("resp.password_file", message.to_owned());
    }
    if config.learn.ttl_min > config.learn.ttl_max {
        fault("learn.ttl_min", "learn.ttl_min exceeds learn.ttl_max".to_owned());
    }
    if message > config.server.max_in_flight {
        let (message, most) = (show_size(message), show_size(config.server.max_in_flight));
        fault("grpc.max_message", format!("grpc.max_message {message} exceeds server.max_in_flight {most}"));
    }
    faults
}

/// Returns the faults of the login for Redis. `place` is the place where `l2.url` was set.
fn faults_of_l2_login(l2: &L2, place: &str) -> Vec<(&'static str, String)> {
    let Some(url) = l2.redis() else { return Vec::new() };
    let mut faults = Vec::new();
    for (key, is_set, is_in_url) in [
        ("l2.user", l2.user.is_some(), url.has_login()),
        ("l2.password_file", l2.password_file.is_some(), url.has_login()),
        ("l2.sentinel_user", l2.sentinel_user.is_some(), url.has_sentinel_login()),
        ("l2.sentinel_password_file", l2.sentinel_password_file.is_some(), url.has_sentinel_login()),
    ] {
        if is_set && is_in_url {
            faults.push((key, format!("{key} and the login in l2.url ({place}) are both set; remove one of them")));
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    for (key, user, file_key, file) in [
        ("l2.user", &l2.user, "l2.password_file", &l2.password_file),
        ("l2.sentinel_user", &l2.sentinel_user, "l2.sentinel_password_file", &l2.sentinel_password_file),
    ] {
        if user.is_some() && file.is_none() {
            faults.push((key, format!("{key} needs a password; set {file_key}")));
        }
    }
    faults
}
