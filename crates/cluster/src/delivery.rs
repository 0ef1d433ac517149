//! When tokens are with clients: after each pass the host takes a while to send them.

use servecast_latency::Host;
use servecast_types::Time;

/// What a worker delivers, in order: nothing overtakes what an earlier pass computed.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    host: Host,
    /// When the tokens of the last pass were with clients.
    last: Time,
}

impl Delivery {
    /// Of a worker that has delivered nothing yet.
    pub fn new(host: Host) -> Self {
        Self { host, last: Time::ZERO }
    }

    /// When the tokens of the worker's next pass are with clients, which ended at `end` with so many requests.
    pub fn pass(&mut self, end: Time, requests: u64) -> Time {
        self.last = self.last.max(end + self.host.delivery(requests));
        self.last
    }

    /// When a token is with its client that was handed over with KV, and so is out before the next pass.
    pub fn handed_over(&self, now: Time) -> Time {
        now + self.host.delivery(1)
    }

    /// When the tokens of the last pass were with clients.
    pub(crate) fn last(&self) -> Time {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overtakes_what_came_before() {
        let host = Host { delivery_us: 1.0, delivery_us_per_request: 1.0, ..Host::NONE };
        let mut delivery = Delivery::new(host);
        let at = Time::from_ns;
        assert_eq!(delivery.pass(at(10_000), 99), at(110_000));
        assert_eq!(delivery.pass(at(20_000), 1), at(110_000), "two clients' worth of work, but behind 99");
        assert_eq!(delivery.pass(at(109_000), 1), at(111_000));
        assert_eq!(delivery.handed_over(at(5_000)), at(7_000));
    }
}
