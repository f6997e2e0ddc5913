//! Scatter-gather between a socket and registered memory, through raw pointers: the kernel copies,
//! and no Rust reference to the memory exists meanwhile.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Most pieces that one system call takes (`IOV_MAX` of Linux).
const MAX_PIECES: usize = 1024;

/// Pieces of memory, in order, and how far they have been filled or drained.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    list: Vec<libc::iovec>,
    /// The first one that is not finished.
    next: usize,
}

// SAFETY: the pointers are only handed to the kernel, by the functions below, whose callers
// promise that the memory is valid whichever thread they run on.
unsafe impl Send for Pieces {}
// SAFETY: nothing can be done with a shared reference but look at addresses.
unsafe impl Sync for Pieces {}

impl Pieces {
    pub(super) fn with_capacity(pieces: usize) -> Self {
        Self { list: Vec::with_capacity(pieces), next: 0 }
    }

    /// Appends a piece. One that continues the piece before it is joined to that.
    pub(super) fn push(&mut self, base: *mut u8, len: usize) {
        match self.list.last_mut() {
            Some(last) if last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == base => {
                last.iov_len += len;
            }
            _ => self.list.push(libc::iovec { iov_base: base.cast(), iov_len: len }),
        }
    }

    /// These pieces with one in front of them.
    pub(super) fn after(mut self, base: *mut u8, len: usize) -> Self {
        debug_assert_eq!(self.next, 0, "nothing may have been moved yet");
        self.list.insert(0, libc::iovec { iov_base: base.cast(), iov_len: len });
        self
    }

    fn is_done(&self) -> bool {
        self.next == self.list.len()
    }

    /// Takes note that the kernel has moved `count` bytes.
    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.list.get_mut(self.next) {
            if count < piece.iov_len {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(count).cast();
                piece.iov_len -= count;
                return;
            }
            count -= piece.iov_len;
            self.next += 1;
        }
        debug_assert_eq!(count, 0, "the kernel moved more than it was given");
    }

    /// A message header over the pieces that are left. Valid while `self` is not touched.
    fn message(&mut self) -> libc::msghdr {
        let left = &mut self.list[self.next..];
        // SAFETY: all fields of the C struct may be zero: no address, no control data, no flags.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = left.as_mut_ptr();
        message.msg_iovlen = left.len().min(MAX_PIECES) as _;
        message
    }
}

/// Fills all pieces from the stream. The memory is touched only while the future is polled.
///
/// # Safety
/// Until the future is done or dropped every piece must be valid for writes, and nobody else in
/// this process may read or write it.
pub(super) async unsafe fn receive(stream: &TcpStream, pieces: &mut Pieces) -> io::Result<()> {
    while !pieces.is_done() {
        let count = stream
            .async_io(Interest::READABLE, || {
                let mut message = pieces.message();
                // SAFETY: the caller vouches for the pieces; the header points to live iovecs; the
                // descriptor is open while `stream` is borrowed.
                let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, 0) };
                usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
            })
            .await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pieces.advance(count);
    }
    Ok(())
}

/// Sends all pieces to the stream, and reports each count of bytes that the kernel has taken.
///
/// # Safety
/// Until the future is done or dropped every piece must be valid for reads. Others may write to
/// it: then the bytes sent are a mixture.
pub(super) async unsafe fn send(
    stream: &TcpStream,
    pieces: &mut Pieces,
    mut sent: impl FnMut(u64),
) -> io::Result<()> {
    while !pieces.is_done() {
        let count = stream
            .async_io(Interest::WRITABLE, || {
                let message = pieces.message();
                // SAFETY: as in `receive`. The kernel only reads the memory, as a device would, so
                // a concurrent write is no data race between threads of this program.
                let count = unsafe {
                    libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
                };
                usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
            })
            .await?;
        pieces.advance(count);
        sent(count as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn neighbours_join_and_progress_is_kept() {
        let mut memory = [0_u8; 100];
        let base = memory.as_mut_ptr();
        let mut pieces = Pieces::default();
        pieces.push(base, 10);
        pieces.push(base.wrapping_add(10), 10);
        pieces.push(base.wrapping_add(50), 5);
        assert_eq!(pieces.list.len(), 2);
        pieces.advance(19);
        assert_eq!((pieces.next, pieces.list[0].iov_len), (0, 1));
        pieces.advance(3);
        assert_eq!((pieces.next, pieces.list[1].iov_len), (1, 3));
        pieces.advance(3);
        assert!(pieces.is_done());
    }

    #[tokio::test]
    async fn more_pieces_than_one_call_takes_arrive_in_order() {
        const PIECES: usize = 3 * MAX_PIECES + 7;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let mut source: Vec<u8> = (0..2 * PIECES).map(|index| (index % 251) as u8).collect();
        let mut target = vec![0_u8; 2 * PIECES];
        let (mut from, mut to) = (Pieces::default(), Pieces::default());
        // Every second byte, backwards, so that nothing joins.
        for index in (0..PIECES).rev() {
            from.push(&raw mut source[2 * index], 1);
            to.push(&raw mut target[2 * index], 1);
        }
        let mut total = 0;
        // SAFETY: both vectors outlive the join and are not touched until it is over.
        let (sent, received) = unsafe {
            tokio::join!(send(&near, &mut from, |count| total += count), receive(&far, &mut to))
        };
        sent.unwrap();
        received.unwrap();
        assert_eq!(total, PIECES as u64);
        for index in 0..PIECES {
            assert_eq!(target[2 * index], source[2 * index]);
            assert_eq!(target[2 * index + 1], 0);
        }
        drop(near);
        let mut rest = Pieces::default();
        rest.push(target.as_mut_ptr(), 1);
        // SAFETY: as above.
        let error = unsafe { receive(&far, &mut rest).await }.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
