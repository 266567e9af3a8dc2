//! Connections at rest, the one used last on top: those below are the first to idle too long and close.

use std::sync::{Mutex, PoisonError};

use crate::connection::Connection;

/// More than any window. Calls in flight already bound the pool, this bounds a mistake.
const IDLE_LEN_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// A connection that is not known to be dead. The lock is held for a push or a pop, so that poison means nothing.
    pub(crate) fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if !connection.sender.is_closed() {
                connection.meter.wake();
                return Some(connection);
            }
        }
        None
    }

    pub(crate) fn put(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        connection.meter.rest();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LEN_MAX {
            idle.push(connection);
        }
    }
}
