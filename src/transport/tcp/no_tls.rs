//! What stands in for TLS where the feature `tls` is off: sessions that do not exist, so that nothing else
//! has to ask whether it is on.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::TcpStream;

use super::wire::{Socket, Wire};
use crate::transport::LinkError;
use crate::types::NodeId;

#[derive(Debug)]
pub(super) enum Tls {}

impl Tls {
    pub(super) fn of_node(self, _: &str, _: NodeId) -> Result<Sessions, Infallible> {
        match self {}
    }
}

#[derive(Debug)]
pub(super) enum Sessions {}

impl Sessions {
    pub(super) fn begin(&self, _: TcpStream, _: NodeId) -> Result<Wire, LinkError> {
        match *self {}
    }

    pub(super) fn accept(&self, _: TcpStream) -> Result<Wire, LinkError> {
        match *self {}
    }
}

#[derive(Debug)]
pub(super) enum Session {}

impl Session {
    pub(super) fn has_unwritten(&self) -> bool {
        match *self {}
    }

    pub(super) fn is_certified(&self, _: &str) -> bool {
        match *self {}
    }

    pub(super) fn read(&mut self, _: &mut Socket, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn write(&mut self, _: &mut Socket, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn flush(&mut self, _: &mut Socket) -> io::Result<()> {
        match *self {}
    }
}

/// Nothing: no operation fails because of TLS.
pub(super) fn error_of(_: &io::Error) -> Option<String> {
    None
}
