//! The threads that serve connections. Each has a runtime of its own, and a connection stays on its thread.
//!
//! Why: the work of one request is small, and a runtime that moves tasks between threads wakes other threads for it
//! more often than it has work for them. Measured with one client that creates: a third of the server's CPU time.
//!
//! Invariant: nothing on these threads waits but by `await`, except for the disk and strict audit backends.

use crate::metrics::Counted;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Connections that wait for their thread to take them; more wait in the kernel's accept queue.
const HANDED_OVER_MAX: usize = 256;
/// A timer that is due before all others wakes its runtime; while this one is always due first, those of requests do not.
const TICK: Duration = Duration::from_secs(10);
/// How long connections may go on after the last was handed over.
const END_TIMEOUT: Duration = Duration::from_secs(10);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = Box<dyn FnOnce(TcpStream) -> Task + Send>;

struct Thread {
    connections: mpsc::Sender<(TcpStream, Start)>,
    open: Arc<AtomicU64>,
}

/// Dropping it lets the threads end after their connections.
pub struct ServingThreads(Vec<Thread>);

impl ServingThreads {
    /// One thread per core.
    ///
    /// # Errors
    /// The system gives no thread or no epoll instance.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        (0..count).map(Thread::start).collect::<io::Result<_>>().map(Self)
    }

    /// Gives a connection to the thread that has the fewest. `serve` is called on that thread.
    ///
    /// # Errors
    /// The socket cannot be moved, or the thread is gone.
    pub async fn hand_over<F>(
        &self,
        stream: tokio::net::TcpStream,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stream = stream.into_std()?;
        let thread = self.0.iter().min_by_key(|t| t.open.load(Ordering::Relaxed));
        let thread = thread.ok_or_else(|| io::Error::other("no thread serves"))?;
        let open = Counted::of(&thread.open);
        let start: Start = Box::new(move |stream| {
            let task = serve(stream);
            Box::pin(async move {
                let _open = open;
                task.await;
            })
        });
        let sent = thread.connections.send((stream, start)).await;
        sent.map_err(|_| io::Error::other("the serving thread has ended"))
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let (connections, mut handed_over) = mpsc::channel::<(TcpStream, Start)>(HANDED_OVER_MAX);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            runtime.block_on(async {
                let tasks = TaskTracker::new();
                loop {
                    match tokio::time::timeout(TICK, handed_over.recv()).await {
                        Ok(Some((stream, start))) => drop(tasks.spawn(start(stream))),
                        Ok(None) => break,
                        Err(_tick) => {}
                    }
                }
                tasks.close();
                let _ = tokio::time::timeout(END_TIMEOUT, tasks.wait()).await;
            });
        })?;
        Ok(Self { connections, open: Arc::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn connections_are_shared_out_and_stay() {
        let threads = ServingThreads::start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let (done, mut ended) = mpsc::channel::<()>(1);
        let mut clients = Vec::new();
        for _ in 0..threads.0.len() * 2 {
            clients.push(TcpStream::connect(address).unwrap());
            let (stream, _) = listener.accept().await.unwrap();
            let (seen, done) = (seen.clone(), done.clone());
            let serve = move |stream: TcpStream| async move {
                let before = std::thread::current().id();
                let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                // until the client closes
                stream.readable().await.unwrap();
                assert_eq!(std::thread::current().id(), before);
                seen.lock().unwrap().insert(before);
                drop(done);
            };
            threads.hand_over(stream, serve).await.unwrap();
        }
        drop((clients, done));
        assert!(ended.recv().await.is_none());
        assert_eq!(seen.lock().unwrap().len(), threads.0.len());
    }
}
