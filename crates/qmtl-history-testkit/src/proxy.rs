//! A TCP proxy that cuts, stalls or resets connections after some bytes, or rewrites what passes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a connection when its bytes are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Both sides are told that it has ended.
    Cut,
    /// Nobody is told anything: a cable that is pulled, a partition.
    Stall,
    /// The client gets a reset.
    Reset,
}

/// A proxy before one port. Connections share one allowance of bytes.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    allowance: Arc<AtomicI64>,
    fault: Arc<AtomicU8>,
    /// Words of one length, the first of which becomes the second on its way.
    words: Option<[&'static [u8]; 2]>,
    rewritten: Arc<AtomicUsize>,
}

impl Proxy {
    /// Carries bytes to and from this port of 127.0.0.1, on the current tokio runtime and for as long as that lives.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub async fn before(port: u16) -> Self {
        Self::with(port, None).await
    }

    /// One that makes `from` into `to` where they pass in one piece.
    ///
    /// # Panics
    ///
    /// When the two differ in length, or when there is no free port.
    pub async fn rewriting(port: u16, from: &'static [u8], to: &'static [u8]) -> Self {
        assert_eq!(from.len(), to.len());
        Self::with(port, Some([from, to])).await
    }

    /// Its own port of 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many words were rewritten.
    #[must_use]
    pub fn rewritten(&self) -> usize {
        self.rewritten.load(Ordering::SeqCst)
    }

    async fn with(port: u16, words: Option<[&'static [u8]; 2]>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let proxy = Self {
            port: listener.local_addr().expect("it listens").port(),
            allowance: Arc::new(AtomicI64::new(i64::MAX)),
            fault: Arc::default(),
            words,
            rewritten: Arc::default(),
        };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let own = own.clone();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
                    own.carry(near, far).await;
                });
            }
        });
        proxy
    }

    /// After so many bytes, both directions and all connections together, the fault happens.
    pub fn fail_after(&self, bytes: i64, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
        self.allowance.store(bytes, Ordering::SeqCst);
    }

    /// Bytes pass again; connections that a fault has hit stay as they are.
    pub fn heal(&self) {
        self.allowance.store(i64::MAX, Ordering::SeqCst);
    }

    async fn carry(&self, near: TcpStream, far: TcpStream) {
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        let is_cut = tokio::select! {
            cut = self.copy(&mut near_in, &mut far_out) => cut,
            cut = self.copy(&mut far_in, &mut near_out) => cut,
        };
        if is_cut && self.fault.load(Ordering::SeqCst) == Fault::Reset as u8 {
            // Closing with bytes unread, and without waiting, resets the peer.
            let near = near_in.reunite(near_out).expect("they are of one stream");
            near.set_zero_linger().expect("an open socket");
        } else if is_cut && self.fault.load(Ordering::SeqCst) == Fault::Stall as u8 {
            std::future::pending::<()>().await;
        }
    }

    /// True when the allowance is used up.
    async fn copy(
        &self,
        from: &mut tokio::net::tcp::OwnedReadHalf,
        to: &mut tokio::net::tcp::OwnedWriteHalf,
    ) -> bool {
        let mut bytes = vec![0; 8_192];
        loop {
            let Ok(count @ 1..) = from.read(&mut bytes).await else { return false };
            self.rewrite(&mut bytes[..count]);
            let count_i64 = i64::try_from(count).expect("8,192 at most");
            let left = self.allowance.fetch_sub(count_i64, Ordering::SeqCst);
            let passed = usize::try_from(left.clamp(0, count_i64)).expect("not negative");
            if to.write_all(&bytes[..passed]).await.is_err() {
                return false;
            }
            if passed < count {
                return true;
            }
        }
    }

    fn rewrite(&self, bytes: &mut [u8]) {
        let Some([from, to]) = self.words else { return };
        for at in 0..bytes.len().saturating_sub(from.len() - 1) {
            if bytes[at..].starts_with(from) {
                bytes[at..at + to.len()].copy_from_slice(to);
                self.rewritten.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
