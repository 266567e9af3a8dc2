//! A suspend of the machine: calls that were in flight when it fell asleep may end in a fault that is nobody's.
//!
//! The engine may have slept as well, may have lost its GPU in the meantime, or may have given us up. Whichever it was,
//! the next attempt is one like any other: each call is excused once, so a request that is at fault is still found out.

use super::{Dispatcher, Flight, LostCall};
use crate::fault::Fault;

impl Dispatcher {
    /// The machine has slept. Returns how many calls were in flight meanwhile.
    pub fn note_suspend(&mut self) -> usize {
        for flight in self.flights.values_mut() {
            flight.spans_suspend = true;
        }
        // Connections that were lost on the way into the sleep wait for a probe to tell whether the engine has crashed:
        // whatever it finds now says nothing about them.
        for number in 0..self.endpoints.len() {
            let (lost, _) = self.endpoints[number].take_lost(true);
            for LostCall { pack, .. } in lost {
                self.put_back_pack(&pack);
            }
        }
        self.flights.len()
    }

    /// Whether the call ended as it did because the machine has slept, as far as anybody can tell.
    pub(super) const fn is_excused(flight: &Flight, fault: &Fault) -> bool {
        flight.spans_suspend && fault.is_inconclusive()
    }
}
