//! A TCP proxy before one member of an etcd that can fall silent, as a network that loses packets does.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A proxy; it ends with the test.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests are held back.
    holds_requests: AtomicBool,
    /// Answers are held back.
    holds_answers: AtomicBool,
    connections: AtomicUsize,
    ended: AtomicBool,
}

impl Proxy {
    /// Forwards to an address like `127.0.0.1:2379`.
    pub fn to(target: &str) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target)
    }

    /// Listens at an address.
    pub fn at(address: SocketAddr, target: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (shared, target) = (Arc::clone(&state), target.to_owned());
        thread::spawn(move || {
            while !shared.ended.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                client.set_nonblocking(false).unwrap();
                let Ok(server) = TcpStream::connect(&target) else { continue };
                for (from, to, requests) in [(&client, &server, true), (&server, &client, false)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || forward(&shared, from, to, requests));
                }
            }
        });
        Self { address, state }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of connections that it has accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Holds back requests, answers or both. What is held back when it goes on is delivered then, also when the client
    /// has closed the connection: what the client sent more than half a second later comes half a second after it.
    pub fn hold(&self, requests: bool, answers: bool) {
        self.state.holds_requests.store(requests, Ordering::Relaxed);
        self.state.holds_answers.store(answers, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

fn forward(state: &State, mut from: TcpStream, mut to: TcpStream, requests: bool) {
    let holds = || {
        let holds = if requests { &state.holds_requests } else { &state.holds_answers };
        holds.load(Ordering::Relaxed) && !state.ended.load(Ordering::Relaxed)
    };
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..count].to_vec();
        let held = holds();
        if held {
            let begin = Instant::now();
            from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            while begin.elapsed() < Duration::from_millis(500) {
                if let Ok(count) = from.read(&mut buffer) {
                    bytes.extend_from_slice(&buffer[..count]);
                }
            }
            from.set_read_timeout(None).unwrap();
            while holds() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        if to.write_all(&bytes).is_err() {
            return;
        }
        if held {
            thread::sleep(Duration::from_millis(500));
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
