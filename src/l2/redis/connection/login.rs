//! The login for one kind of server: from the URL, or with a password from a file that is followed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::{
    files::{Stamp, read_secret},
    l2::redis::url::{Login, RedisUrl},
    secret::Secret,
};

/// Maximum size of a password for Redis, less than the 16 KiB that Redis accepts before authentication. Tokens of cloud
/// providers have about 2 KiB.
const PASSWORD_MAX_BYTES: usize = 8 * 1024;
/// Maximum time that a connection attempt waits for the check of the file. It then uses the known password.
const CHECK_MAX: Duration = Duration::from_millis(200);

/// Users and files of their passwords, in place of logins in the URL.
#[derive(Debug, Clone, Copy, Default)]
pub struct PasswordFiles<'a> {
    /// User of the data servers; `None` = the default user.
    pub user: Option<&'a str>,
    /// File with the password for data servers.
    pub password: Option<&'a Path>,
    /// User of the Sentinels; `None` = the default user.
    pub sentinel_user: Option<&'a str>,
    /// File with the password for Sentinels.
    pub sentinel_password: Option<&'a Path>,
}

impl PasswordFiles<'_> {
    /// Reads the files that connections to this URL use.
    ///
    /// # Errors
    /// The key of the setting and the reason why its file cannot be used.
    pub fn check(&self, url: &RedisUrl) -> Result<(), (&'static str, String)> {
        self.logins(url).map(drop)
    }

    /// Returns the login for data servers and the login for Sentinels.
    pub(crate) fn logins(&self, url: &RedisUrl) -> Result<(LoginSource, LoginSource), (&'static str, String)> {
        let data = LoginSource::new(url.login(), self.user, self.password).map_err(|why| ("l2.password_file", why))?;
        let file = self.sentinel_password.filter(|_| url.has_sentinels());
        let sentinel = LoginSource::new(url.sentinel_login(), self.sentinel_user, file);
        Ok((data, sentinel.map_err(|why| ("l2.sentinel_password_file", why))?))
    }
}

/// Source of the login of new connections. Clones share the state of the file.
#[derive(Debug, Clone)]
pub(crate) enum LoginSource {
    /// The login of the URL.
    Fixed(Login),
    /// The password of a file.
    File(Arc<LoginFile>),
}

impl LoginSource {
    fn new(of_url: &Login, user: Option<&str>, file: Option<&Path>) -> Result<Self, String> {
        let Some(path) = file else { return Ok(Self::Fixed(of_url.clone())) };
        let known = Known { stamp: Stamp::of(path), login: read_login(path, user)?, is_faulty: false };
        let (known, checks) = (ArcSwap::from_pointee(known), Mutex::default());
        Ok(Self::File(Arc::new(LoginFile { path: path.to_owned(), user: user.map(str::to_owned), known, checks })))
    }

    /// Returns the login for a new connection. Reads the file again if it has changed.
    pub(crate) async fn current(&self) -> Login {
        match self {
            Self::Fixed(login) => login.clone(),
            Self::File(file) => {
                // A file system that does not answer must not prevent a connection.
                let _checked = timeout(CHECK_MAX, LoginFile::follow(file)).await;
                file.known.load().login.clone()
            }
        }
    }
}

/// A file with a password.
#[derive(Debug)]
pub(crate) struct LoginFile {
    path: PathBuf,
    user: Option<String>,
    known: ArcSwap<Known>,
    /// The check in progress. It outlives the connection attempt that started it, so that at most one thread waits for
    /// a file system that does not answer.
    checks: Mutex<Option<JoinHandle<()>>>,
}

/// The last state of a file.
#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// The login of the last valid state.
    login: Login,
    /// The file with this stamp cannot be used, which was logged.
    is_faulty: bool,
}

impl LoginFile {
    /// Checks the file in a thread that may block.
    async fn follow(file: &Arc<Self>) {
        let mut check = file.checks.lock().await;
        let checked = Arc::clone(file);
        let running = check.get_or_insert_with(|| spawn_blocking(move || checked.check()));
        // Fails only if the runtime of another worker has ended.
        let _ended = running.await;
        *check = None;
    }

    fn check(&self) {
        let known = self.known.load();
        let stamp = Stamp::of(&self.path);
        let is_seen = stamp == known.stamp;
        // A faulty file is read each time: the fault may be temporary.
        if is_seen && !known.is_faulty {
            return;
        }
        match read_login(&self.path, self.user.as_deref()) {
            Ok(login) => {
                tracing::info!(path = %self.path.display(), "read a changed password file of L2");
                self.known.store(Arc::new(Known { stamp, login, is_faulty: false }));
            }
            Err(why) => {
                if !is_seen {
                    tracing::error!("rejected a changed password file of L2; keeping the current password: {why}");
                }
                self.known.store(Arc::new(Known { stamp, login: known.login.clone(), is_faulty: true }));
            }
        }
    }
}

fn read_login(path: &Path, user: Option<&str>) -> Result<Login, String> {
    let bytes = read_secret(path, PASSWORD_MAX_BYTES, "password")?;
    let password = String::from_utf8(bytes)
        .map_err(|_| format!("the first line of {} is not UTF-8; expected a password in UTF-8", path.display()))?;
    Ok(Login { username: user.map(str::to_owned), password: Some(Secret::new(password)) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn password(source: &LoginSource) -> String {
        source.current().await.password.map(|password| password.expose().clone()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_changed_file_is_read_and_a_faulty_one_keeps_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "first\nsecond line").unwrap();
        let url = RedisUrl::parse("redis://h").unwrap();
        let files = PasswordFiles { user: Some("u"), password: Some(&path), ..PasswordFiles::default() };
        let (data, sentinel) = files.logins(&url).unwrap();
        assert_eq!(password(&data).await, "first");
        assert_eq!(data.current().await.username.as_deref(), Some("u"));
        assert_eq!(sentinel.current().await, Login::default());
        assert!(!format!("{data:?}").contains("first"));
        fs::write(&path, "second\r\n").unwrap();
        assert_eq!(password(&data).await, "second");
        fs::write(&path, "").unwrap();
        assert_eq!(password(&data).await, "second");
        fs::remove_file(&path).unwrap();
        assert_eq!(password(&data).await, "second");
        fs::write(&path, "third!").unwrap();
        assert_eq!(password(&data).await, "third!");
    }

    #[test]
    fn a_fault_names_the_setting_and_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let check = |url: &str| {
            let url = RedisUrl::parse(url).unwrap();
            PasswordFiles { sentinel_password: Some(&path), ..PasswordFiles::default() }.check(&url)
        };
        assert_eq!(check("redis://h"), Ok(()), "no Sentinel reads the file");
        let (key, why) = check("redis+sentinel://h/m").unwrap_err();
        assert_eq!(key, "l2.sentinel_password_file");
        assert!(why.contains(path.to_str().unwrap()) && why.contains("No such file"), "{why}");
        fs::write(&path, b"hunter2\xff").unwrap();
        let (_, why) = check("redis+sentinel://h/m").unwrap_err();
        assert!(why.ends_with("is not UTF-8; expected a password in UTF-8") && !why.contains("hunter2"), "{why}");
    }
}
