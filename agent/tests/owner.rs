//! A good guest: pauses, the owner's commands, page, file and service.
#![allow(missing_docs)]

mod owner {
    mod files;
    mod help;
    #[cfg(target_os = "linux")]
    mod idle;
    mod lab;
    #[cfg(target_os = "linux")]
    mod memory;
    mod page;
    mod pause;
}
mod session_support;
