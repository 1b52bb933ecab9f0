//! What native code can do inside the walls that models run behind: this program confines itself as a worker does, and
//! tries. A program of its own, because a process must have one thread when it is confined, and the standard harness has
//! more.
//!
//! Every attempt is made twice: free, to see that it can succeed on this machine at all (what cannot is not counted), and
//! confined, where it must fail with `EPERM` or `EACCES`.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: Linux only");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use nix::sys::{ptrace, signal, uio};
    use nix::unistd::{Pid, getppid};
    use std::collections::BTreeMap;
    use std::fs::{self, File};
    use std::io::{self, IoSliceMut};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, exit};

    /// Name, and what is tried in a folder of its own.
    type Attempt = (&'static str, fn(&Path) -> io::Result<()>);

    const ATTEMPTS: &[Attempt] = &[
        ("tcp listen", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
        ("tcp connect", |folder| TcpStream::connect(fs::read_to_string(folder.join("address"))?.trim()).map(drop)),
        ("udp", |_| UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("unix listen", |folder| UnixListener::bind(folder.join("socket")).map(drop)),
        ("unix pair", |_| UnixStream::pair().map(drop)),
        ("fork", |_| Command::new("/bin/true").status().map(drop)),
        // Only comes back if it fails.
        ("exec", |_| Err(Command::new("/bin/true").exec())),
        ("ptrace", |_| Ok(ptrace::seize(getppid(), ptrace::Options::empty())?)),
        ("process_vm_readv", |_| {
            let mut byte = [0];
            // Its own memory, which it may read: the call itself is what is denied.
            let maps = fs::read_to_string("/proc/self/maps")?;
            let base = maps.split('-').next().and_then(|text| usize::from_str_radix(text, 16).ok()).unwrap_or(0);
            let remote = [uio::RemoteIoVec { base, len: 1 }];
            Ok(uio::process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut byte)], &remote).map(drop)?)
        }),
        ("signal", |_| Ok(signal::kill(getppid(), None)?)),
        ("another's environment", |_| fs::read(format!("/proc/{}/environ", getppid())).map(drop)),
        ("namespace", |_| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)?)),
        ("mount", |folder| {
            let flags = nix::mount::MsFlags::empty();
            let none = None::<&str>;
            Ok(nix::mount::mount(Some("none"), &folder.join("mount"), Some("tmpfs"), flags, none)?)
        }),
        ("read", |folder| fs::read(folder.join("file")).map(drop)),
        ("list", |folder| fs::read_dir(folder).map(drop)),
        ("system's file", |_| fs::read("/etc/passwd").map(drop)),
        ("write", |folder| fs::write(folder.join("file"), "changed")),
        ("create", |folder| fs::write(folder.join("new"), "new")),
        ("make a folder", |folder| fs::create_dir(folder.join("folder"))),
        ("symbolic link", |folder| symlink("file", folder.join("symbolic"))),
        ("hard link", |folder| fs::hard_link(folder.join("file"), folder.join("hard"))),
        ("permissions", |folder| fs::set_permissions(folder.join("file"), fs::Permissions::from_mode(0o777))),
        ("own file's permissions", |_| fs::set_permissions("/proc/self/exe", fs::Permissions::from_mode(0o755))),
        ("rename", |folder| fs::rename(folder.join("file"), folder.join("renamed"))),
        ("remove", |folder| fs::remove_file(folder.join("renamed")).or_else(|_| fs::remove_file(folder.join("file")))),
    ];

    /// What a worker goes on doing.
    fn still_works(model: &File) {
        std::thread::spawn(|| ()).join().expect("threads");
        fs::read("/proc/self/status").expect("its own figures");
        fs::read("/proc/cpuinfo").expect("the processor");
        fs::read(format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(model))).expect("the model, by descriptor");
    }

    /// One attempt in this process; the exit code tells: 0 it succeeded, 1 denied, 2 failed otherwise.
    fn try_one(name: &str, confined: bool, folder: &Path) -> ! {
        let model = File::open(folder.join("model")).expect("the model");
        if confined {
            let sandbox = nightshift_agent::engine::confine(Some(&model), "cpu0").expect("confined");
            assert!(sandbox.is_whole());
            still_works(&model);
        }
        let (_, attempt) = ATTEMPTS.iter().find(|(known, _)| *known == name).expect("a known attempt");
        match attempt(folder) {
            Ok(()) => exit(0),
            Err(error) => {
                eprintln!("{error}");
                exit(if error.kind() == io::ErrorKind::PermissionDenied { 1 } else { 2 })
            }
        }
    }

    fn outcome(name: &str, how: &str, address: &str) -> (Option<i32>, bool) {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, content) in [("file", "untouched"), ("model", "model"), ("address", address)] {
            fs::write(folder.path().join(file), content).expect("a file");
        }
        fs::create_dir(folder.path().join("mount")).expect("a folder");
        let myself = std::env::current_exe().expect("this program");
        let output =
            Command::new(myself).arg("--try").args([how, name]).arg(folder.path()).output().expect("a process");
        if how == "free" {
            // A mount in this namespace must not stay.
            let _ = nix::mount::umount(&folder.path().join("mount"));
        }
        let mut names: Vec<_> = fs::read_dir(folder.path()).expect("it").flatten().map(|e| e.file_name()).collect();
        names.sort();
        let untouched = names == ["address", "file", "model", "mount"]
            && fs::read(folder.path().join("file")).is_ok_and(|text| text == b"untouched");
        (output.status.code(), untouched)
    }

    /// All of it once more, as a user without any rights.
    fn as_nobody() {
        const NOBODY: u32 = 65_534;
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("its owner");
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.arg("--again").uid(NOBODY).gid(NOBODY).env("TMPDIR", folder.path());
        match again.output() {
            Ok(output) => {
                println!("as an ordinary user:\n{}", String::from_utf8_lossy(&output.stdout));
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            Err(error) => println!("skipped as an ordinary user: {error}: it may not read this program"),
        }
    }

    pub fn main() {
        let args: Vec<String> = std::env::args().collect();
        if let [_, flag, how, name, folder] = args.as_slice()
            && flag == "--try"
        {
            try_one(name, how == "confined", Path::new(folder));
        }
        let program = Path::new(env!("CARGO_BIN_EXE_nightshift-agent"));
        let output = Command::new(program).args(["worker", "--sandbox"]).output().expect("the agent's program");
        let sandbox: nightshift_agent::engine::Sandbox = serde_json::from_slice(&output.stdout).expect("its answer");
        if !sandbox.is_whole() {
            return println!("skipped: {sandbox}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        let (mut wrong, mut passed) = (BTreeMap::new(), 0);
        for (name, _) in ATTEMPTS {
            let (free, _) = outcome(name, "free", &address);
            let (code, untouched) = outcome(name, "confined", &address);
            println!("{name}: free {free:?}, confined {code:?}");
            if code == Some(1) && untouched {
                passed += 1;
            } else {
                wrong.insert(*name, code);
            }
            // A container may deny some to everyone; files are not among them.
            assert!(
                free == Some(0) || !["read", "write", "fork", "exec", "tcp connect"].contains(name),
                "{name} never works"
            );
        }
        if nix::unistd::geteuid().is_root() && !args.iter().any(|arg| arg == "--again") {
            as_nobody();
        }
        let result = if wrong.is_empty() { "ok" } else { "FAILED" };
        println!("test result: {result}. {passed} passed; {} failed; 0 ignored", wrong.len());
        assert!(wrong.is_empty(), "not denied: {wrong:?}");
    }
}
