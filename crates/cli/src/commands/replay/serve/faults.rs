//! What a server does wrong on purpose.

use std::net::{IpAddr, SocketAddr};

use servecast_live::{Fail, Faults, MaxQueue, Stall};
use servecast_types::{Duration, message};

use crate::config::finite;
use crate::error::Failure;

/// What goes wrong, and how long workers take to start.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Faults")]
pub(super) struct FaultArgs {
    /// Requests that may wait behind a port; others are refused with status 503, or as in 64,status=429
    #[arg(long, value_name = "REQUESTS")]
    max_queue: Option<MaxQueue>,
    /// Answer some requests with an error, such as rate=0.01,status=500
    #[arg(long, value_name = "rate=RATE")]
    fail: Option<Fail>,
    /// Give some requests no token for some time, such as rate=0.01,seconds=30; without seconds, for good
    #[arg(long, value_name = "rate=RATE")]
    stall: Option<Stall>,
    /// Seconds that workers take to start; until then connections are refused
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = finite)]
    startup_s: Option<f64>,
    /// Port where workers are listed, failed and started again; without it nobody can
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

impl FaultArgs {
    pub(super) fn faults(&self) -> Faults {
        Faults { fail: self.fail, stall: self.stall, max_queue: self.max_queue }
    }

    pub(super) fn startup(&self) -> Result<Duration, Failure> {
        /// A day.
        const MOST: f64 = 86_400.0;
        let seconds = self.startup_s.unwrap_or(0.0);
        if !(0.0..=MOST).contains(&seconds) {
            let what = message!("{--startup_s} is {}, but has to be from 0 to 86400", seconds.to_string());
            return Err(Failure::user(what));
        }
        Duration::from_secs(seconds).map_err(|_| {
            Failure::user(message!("{--startup_s} is {}, which is longer than a run can be", seconds))
        })
    }

    pub(super) fn admin(&self, address: IpAddr) -> Option<SocketAddr> {
        self.admin_port.map(|port| SocketAddr::new(address, port))
    }
}
