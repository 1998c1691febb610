//! Many targets: names and loopback addresses of their own, one client behind them all; and dead ones of three kinds.

use std::fmt::Write as _;
use std::net::TcpListener;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use crate::process::{Daemon, free_port};
use crate::{Target, World};

/// How a dead target is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Nobody listens: refused at once.
    Refused,
    /// Packets get no answer.
    Dropped,
    /// Somebody takes the connection and says nothing.
    Silent,
}

/// A world with one client that is many targets, and the ports of the dead.
pub struct Fleet {
    /// The world.
    pub world: World,
    /// The client that they all are.
    pub target: Target,
    client: Option<Daemon>,
    refused: u16,
    /// Its queue of connections is full: the kernel drops what else comes.
    dropped: (u16, rustix::fd::OwnedFd, Vec<std::net::TcpStream>),
    silent: TcpListener,
}

impl Fleet {
    /// Makes a client that takes `connections` at once, and starts it.
    ///
    /// # Panics
    /// The machine has no loopback network.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        let world = World::new();
        let mut target = world.target("fleet", &["example.com"]);
        target.updates = false;
        target.extra = format!("  max_connections: {connections}\n  pusher_addresses: [127.0.0.1]\n");
        target.write_config();
        // All of 127.0.0.0/8 is this host.
        let text = std::fs::read_to_string(&target.config).expect("client.yml");
        let text = text.replace("listen_address: 127.0.0.1", "listen_address: 0.0.0.0");
        std::fs::write(&target.config, text.replace("log_level: DEBUG", "log_level: INFO")).expect("client.yml");
        let mut client = target.start_unseen();
        client.says("Listening for incoming connections at 0.0.0.0");
        let silent = TcpListener::bind("0.0.0.0:0").expect("a port");
        Self { world, target, client: Some(client), refused: free_port(), dropped: full(), silent }
    }

    /// Writes `server.yml`: so many live targets, and so many dead ones of a kind.
    ///
    /// # Panics
    /// The disk is full.
    pub fn write(&self, live: usize, dead: &[(usize, Death)], more: &str) {
        let mut text = format!(
            "privkey_filename: {}\nqueue_dir: {}\nlive_directory: {}\nlog_level: INFO\nrenew_exec: /bin/true\n\
             push_mode: parallel\n{more}client_configs:\n",
            self.world.server_key().display(),
            self.world.queue().display(),
            self.world.letsencrypt().join("live").display(),
        );
        let mut entry = |name: String, net: usize, number: usize, port: u16| {
            let address = format!("127.{net}.{}.{}", number / 250, 1 + number % 250);
            let pin = &self.target.pinned;
            let _ = writeln!(
                text,
                "- {{name: {name}, address: {address}, port: {port}, domains: [example.com], pubkey: \"{pin}\"}}"
            );
        };
        // The dead come first: whoever waits for them is seen to wait.
        for (kind, (count, death)) in dead.iter().enumerate() {
            let port = match death {
                Death::Refused => self.refused,
                Death::Dropped => self.dropped.0,
                Death::Silent => self.silent.local_addr().expect("its port").port(),
            };
            for number in 0..*count {
                entry(format!("dead{kind}-{number}"), kind + 1, number, port);
            }
        }
        for number in 0..live {
            entry(format!("live{number}"), 0, number, self.target.port);
        }
        std::fs::write(self.world.server_config(), text).expect("write server.yml");
    }

    /// The client.
    ///
    /// # Panics
    /// It has been taken.
    #[must_use]
    pub fn client(&self) -> &Daemon {
        self.client.as_ref().expect("the client")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Before its directory.
        self.client = None;
    }
}

/// A port whose queue of connections is full.
fn full() -> (u16, rustix::fd::OwnedFd, Vec<std::net::TcpStream>) {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let port = free_port();
    // What a test before this one has closed may still wait out its minute there (tcp(7)).
    rustix::net::sockopt::set_socket_reuseaddr(&listener, true).expect("an option");
    bind(&listener, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    listen(&listener, 0).expect("listen");
    let mut held = Vec::new();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)) {
        held.push(stream);
    }
    (port, listener, held)
}
