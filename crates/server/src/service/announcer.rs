//! What the service manager is told over its socket: ready, stopping, a line of status, and that all is well.
//!
//! The protocol is that of sd_notify(3): datagrams of `NAME=value` lines. Without a manager nothing is told to nobody.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Environment;

/// The way to the service manager, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announcer(Option<Arc<Listener>>);

/// Where the manager listens.
#[derive(Debug)]
struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Watchdog>,
    status: Mutex<String>,
}

#[derive(Debug)]
struct Watchdog {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Announcer {
    /// As the manager has set it up in our environment. A socket that cannot be used is said, and not fatal.
    pub(crate) fn new(environment: &Environment) -> Self {
        let Some(name) = environment.get("NOTIFY_SOCKET") else { return Self(None) };
        match Listener::new(name, ping_every(environment, std::process::id())) {
            Ok(listener) => Self(Some(Arc::new(listener))),
            Err(error) => {
                tracing::warn!(socket = name, %error, "the service manager cannot be told anything");
                Self(None)
            }
        }
    }

    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping: what is in flight may end");
    }

    /// What `systemctl status` shows. Told when it has changed.
    pub(crate) fn status(&self, status: &str) {
        let Some(listener) = &self.0 else { return };
        let mut last = listener.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != status {
            status.clone_into(&mut last);
            drop(last);
            self.tell(&format!("STATUS={}", status.replace('\n', " ")));
        }
    }

    /// All parts go on: told twice in the time after which the manager would end us.
    pub(crate) fn ping(&self) {
        let Some(watchdog) = self.0.as_ref().and_then(|listener| listener.watchdog.as_ref()) else {
            return;
        };
        let mut last = watchdog.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= watchdog.every) {
            *last = Some(Instant::now());
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, message: &str) {
        let Some(listener) = &self.0 else { return };
        // Without waiting: a manager that does not read must not hold us up. What was not heard is told again.
        if let Err(error) = listener.socket.send_to_addr(message.as_bytes(), &listener.address) {
            tracing::debug!(message, %error, "the service manager did not hear us");
        }
    }
}

impl Listener {
    fn new(name: &str, ping_every: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let watchdog = ping_every.map(|every| Watchdog { every, last: Mutex::new(None) });
        Ok(Self { socket, address: address(name)?, watchdog, status: Mutex::default() })
    }
}

/// A path, or with an `@` before it a name of the abstract kind that only Linux has.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        None => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        #[cfg(not(target_os = "linux"))]
        Some(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "an abstract socket")),
    }
}

/// Half of what the manager waits for, when it is us that it watches.
fn ping_every(environment: &Environment, process: u32) -> Option<Duration> {
    let number = |name: &str| environment.get(name)?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|watched| watched == u64::from(process));
    number("WATCHDOG_USEC")
        .filter(|micros| is_for_us && *micros > 0)
        .map(|micros| Duration::from_micros(micros / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut message = [0; 256];
        let len = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..len]).into_owned()
    }

    fn announcer(name: &str, watchdog_micros: &str) -> Announcer {
        Announcer::new(&Environment::from_pairs([
            ("NOTIFY_SOCKET", name),
            ("WATCHDOG_USEC", watchdog_micros),
        ]))
    }

    #[test]
    fn a_manager_behind_a_path_hears_each_thing_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let announcer = announcer(path.to_str().unwrap(), "60000000");
        announcer.ready();
        announcer.ping();
        announcer.ping();
        announcer.status("idle");
        announcer.status("idle");
        announcer.status("two\nlines");
        announcer.stopping();
        let all: Vec<String> = (0..5).map(|_| heard(&manager)).collect();
        assert_eq!(all[..4], ["READY=1", "WATCHDOG=1", "STATUS=idle", "STATUS=two lines"]);
        assert!(all[4].starts_with("STOPPING=1\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_manager_behind_an_abstract_name_hears_us() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("overnight-announcer-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        announcer(&format!("@{name}"), "").ready();
        assert_eq!(heard(&manager), "READY=1");
    }

    #[test]
    fn nobody_who_listens_is_no_error() {
        for name in ["", "/nowhere/at/all", "@overnight-nobody-listens", &"x".repeat(300)] {
            let announcer = announcer(name, "1000");
            announcer.ready();
            announcer.ping();
        }
    }

    #[test]
    fn only_a_watchdog_that_is_meant_for_us_is_fed() {
        let of = |micros, process| {
            let pairs = [("WATCHDOG_USEC", micros), ("WATCHDOG_PID", process)];
            ping_every(&Environment::from_pairs(pairs), 7)
        };
        assert_eq!(of("3000000", "7"), Some(Duration::from_millis(1_500)));
        assert_eq!(of("3000000", ""), Some(Duration::from_millis(1_500)));
        assert_eq!(of("3000000", "8"), None);
        assert_eq!(of("0", "7"), None);
        assert_eq!(of("soon", "7"), None);
    }
}
