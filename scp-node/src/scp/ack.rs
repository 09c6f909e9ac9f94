//! Acknowledging at once: a sender that keeps Nagle's algorithm on waits for our delayed ACK, 40 to 200 ms an object.

use tokio::net::TcpStream;

/// Sends the pending acknowledgement now. Has to be repeated: the kernel falls back to delaying.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn now(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_tcp_quickack(true);
}

/// Elsewhere there is no call for a single acknowledgement; see [`always`].
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn now(_socket: &TcpStream) {}

/// Asks once for the connection that every segment be acknowledged.
#[cfg(windows)]
#[expect(unsafe_code, reason = "SIO_TCP_SET_ACK_FREQUENCY has no safe wrapper")]
pub(crate) fn always(socket: &TcpStream) {
    use std::os::windows::io::AsRawSocket;
    use windows_sys::Win32::Networking::WinSock::{SOCKET, WSAIoctl};
    /// `_WSAIOW(IOC_VENDOR, 23)`. Source: mstcpip.h.
    const SIO_TCP_SET_ACK_FREQUENCY: u32 = 0x9800_0017;
    let frequency: i32 = 1;
    let mut returned = 0u32;
    // SAFETY: the socket is open for as long as `socket` is borrowed; input is a valid i32, no output is asked for.
    unsafe {
        WSAIoctl(
            socket.as_raw_socket() as SOCKET,
            SIO_TCP_SET_ACK_FREQUENCY,
            std::ptr::from_ref(&frequency).cast(),
            4,
            std::ptr::null_mut(),
            0,
            &mut returned,
            std::ptr::null_mut(),
            None,
        );
    }
}

/// On other systems the acknowledgement is sent by [`now`].
#[cfg(not(windows))]
pub(crate) fn always(_socket: &TcpStream) {}
