//! The only place where `unsafe` is allowed: what the operating system and libtorch's C side need.
//!
//! *In*: checked sizes and owned descriptors. *Out*: safe types. *Invariant*: nothing here trusts a length or a descriptor
//! that came from a worker; every `unsafe` block says why it holds.
#![allow(unsafe_code)]

pub mod channel;
pub mod cuda;
pub mod file;
pub mod limits;
pub mod process;
pub mod shm;
