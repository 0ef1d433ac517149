//! The ports of a server: which there are, and that those of workers close with them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use servecast_types::WorkerId;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::{ServeError, ServeOptions, http};

/// How long it takes to try again to get a port that somebody else has.
const RETRY: Duration = Duration::from_millis(100);

/// A port that is open.
pub(crate) struct Port {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    /// The worker behind it, if it is just one.
    pub(crate) worker: Option<WorkerId>,
}

/// Opens all ports.
pub(crate) fn listen(options: &ServeOptions) -> Result<Vec<Port>, ServeError> {
    let mut wanted: Vec<_> = options.address.into_iter().map(|address| (address, None)).collect();
    if let Some(first) = options.workers {
        let workers: u32 = options.topology.groups().map(|(_, workers, _)| workers).sum();
        for worker in 0..workers {
            // Port 0 is any free one, for each of them.
            let offset = if first.port() == 0 { 0 } else { worker };
            let port = u16::try_from(u32::from(first.port()).saturating_add(offset));
            let none = |_| ServeError::Listen {
                address: first,
                source: io::Error::other("there are not that many ports"),
            };
            wanted.push((SocketAddr::new(first.ip(), port.map_err(none)?), Some(WorkerId(worker))));
        }
    }
    let mut ports = Vec::new();
    for (address, worker) in wanted {
        let (listener, address) = bind(address)?;
        ports.push(Port { listener, address, worker });
    }
    Ok(ports)
}

/// Connections that wait to be taken; beyond that a client tries again after a second. The system may allow fewer.
const BACKLOG: u32 = 8192;

/// Opens a port; of port 0, any.
pub(crate) fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, source };
    let listener = listener(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Windows that would take the port of somebody who has it.
    if cfg!(unix) {
        socket.set_reuseaddr(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections on all ports, until it is dropped.
pub(crate) struct Doors(Vec<Door>);

struct Door {
    address: SocketAddr,
    app: Arc<App>,
    is_open: bool,
    task: JoinHandle<()>,
}

impl Doors {
    pub(crate) fn open(ports: Vec<Port>, mut app: impl FnMut(Option<WorkerId>) -> App) -> Self {
        let door = |Port { listener, address, worker }: Port| {
            let app = Arc::new(app(worker));
            let task = tokio::spawn(http::serve(listener, Arc::clone(&app)));
            Door { address, app, is_open: true, task }
        };
        Self(ports.into_iter().map(door).collect())
    }

    /// Closes all ports: nobody is let in any more when it returns, and whoever is connected loses the connection soon.
    pub(crate) async fn close(&mut self) {
        self.0.iter().for_each(|door| door.task.abort());
        for door in &mut self.0 {
            // It ends because it was aborted.
            let _ = (&mut door.task).await;
        }
    }

    /// A worker serves, or does so no more: then its port is closed, and whoever is connected loses the connection.
    pub(crate) fn worker_changed(&mut self, worker: WorkerId, is_up: bool) {
        for door in self.0.iter_mut().filter(|door| door.app.worker == Some(worker)) {
            match (door.is_open, is_up) {
                (true, false) => door.task.abort(),
                (false, true) => {
                    door.task = tokio::spawn(reopen(door.address, Arc::clone(&door.app)));
                }
                _ => {}
            }
            door.is_open = is_up;
        }
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.0.iter().for_each(|door| door.task.abort());
    }
}

async fn reopen(address: SocketAddr, app: Arc<App>) {
    loop {
        match listener(address) {
            Ok(listener) => return http::serve(listener, app).await,
            // Somebody may have it for the moment.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
