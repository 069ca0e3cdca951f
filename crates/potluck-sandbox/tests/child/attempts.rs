//! What native code in a child would try first, one thing at a time, by bare system calls; and what
//! honest code in it does.

use std::ffi::CString;
use std::path::PathBuf;

use libc::{c_long, c_ulong};

/// What there is to attack: made by the test before each attempt.
pub(crate) struct Scene {
    /// A folder with the file `victim`, the socket `socket`, and nothing else.
    pub(crate) folder: PathBuf,
    /// Where somebody listens for TCP on this machine, and for UDP.
    pub(crate) tcp: u16,
    pub(crate) udp: u16,
    /// The process that started this one, and the address of a word in it.
    pub(crate) parent: i32,
    pub(crate) address: usize,
    /// A process that is nobody's business.
    pub(crate) bystander: i32,
}

impl Scene {
    fn path(&self, name: &str) -> CString {
        CString::new(self.folder.join(name).into_os_string().into_encoded_bytes()).unwrap()
    }
}

/// One thing to try.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    /// Who could do it without a lock, so that the claim that it fails says something.
    pub(crate) control: Control,
    /// Whether it must fail even without a filter on system calls.
    pub(crate) is_held_twice: bool,
    /// Whether a runner may do it until its artefact is loaded.
    pub(crate) is_loading: bool,
    pub(crate) run: fn(&Scene) -> Tried,
}

/// Who can do it without a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Anybody.
    Anyone,
    /// Root.
    Root,
    /// Nobody for certain, or it would do harm.
    Unknown,
}

/// Done, or refused with this error number.
pub(crate) type Tried = Result<(), i32>;

#[expect(unsafe_code, reason = "an attacker asks no library")]
fn call(number: c_long, arguments: [c_ulong; 6]) -> Result<c_long, i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every pointer handed over below points to memory that lives until the call returns.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap())
    } else {
        Ok(answer)
    }
}

/// A call whose arguments need not be kept alive.
fn plain<const N: usize>(number: c_long, arguments: [i64; N]) -> Tried {
    let mut all = [0; 6];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument.cast_unsigned();
    }
    call(number, all).map(drop)
}

fn at<T>(value: &T) -> c_ulong {
    std::ptr::from_ref(value) as c_ulong
}

fn open(path: &CString, flags: i32) -> Tried {
    let (cwd, flags) = (AT_FDCWD, c_ulong::from(flags.cast_unsigned()));
    call(libc::SYS_openat, [cwd, path.as_ptr() as c_ulong, flags, 0o600, 0, 0]).map(drop)
}

fn named(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn on_path(number: c_long, path: &CString, more: c_ulong) -> Tried {
    call(number, [AT_FDCWD, path.as_ptr() as c_ulong, more, 0, 0, 0]).map(drop)
}

fn socket(family: i32, kind: i32) -> Result<c_ulong, i32> {
    let (family, kind) = (family.cast_unsigned().into(), kind.cast_unsigned().into());
    call(libc::SYS_socket, [family, kind, 0, 0, 0, 0]).map(i64::cast_unsigned)
}

fn internet(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: 2,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_be_bytes([127, 0, 0, 1]).to_be() },
        sin_zero: [0; 8],
    }
}

fn on_internet(number: c_long, port: u16) -> Tried {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    call(number, [socket, at(&internet(port)), 16, 0, 0, 0]).map(drop)
}

/// `name` as it stands in a Unix socket's address; a zero in front makes it abstract.
fn to_unix(name: &[u8]) -> Tried {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    let mut address = vec![1, 0];
    address.extend(name);
    let length = address.len() as c_ulong;
    call(libc::SYS_connect, [socket, address.as_ptr() as c_ulong, length, 0, 0, 0]).map(drop)
}

/// The name of the abstract socket of a scene's parent.
pub(crate) fn abstract_name(parent: i32) -> String {
    format!("potluck-test-{parent}")
}

fn fork_by(number: c_long, arguments: [c_ulong; 6]) -> Tried {
    let child = call(number, arguments)?;
    if child == 0 {
        // The copy must not go on with the test.
        let _ = plain(libc::SYS_exit_group, [0]);
    }
    Ok(())
}

fn anonymous(protection: i32) -> Result<i64, i32> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned().into();
    call(libc::SYS_mmap, [0, 4096, protection.cast_unsigned().into(), flags, c_ulong::MAX, 0])
}

fn read_parent(scene: &Scene) -> Tried {
    let mut word = [0_u8; 8];
    let here = [word.as_mut_ptr() as c_ulong, 8];
    let there = [scene.address as c_ulong, 8];
    let parent = i64::from(scene.parent).cast_unsigned();
    call(libc::SYS_process_vm_readv, [parent, at(&here), 1, at(&there), 1, 0]).map(drop)
}

fn raise_limit(_: &Scene) -> Tried {
    let most = [4096_u64; 2];
    call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE.into(), at(&most), 0, 0, 0]).map(drop)
}

fn exec(_: &Scene) -> Tried {
    let path = named("/bin/true");
    let argv = [path.as_ptr() as c_ulong, 0];
    call(libc::SYS_execve, [argv[0], at(&argv), 0, 0, 0, 0]).map(drop)
}

fn make_bpf_map(_: &Scene) -> Tried {
    // An array of one, with keys and values of four bytes.
    let attributes: [u32; 20] =
        std::array::from_fn(|at| [2, 4, 4, 1].get(at).copied().unwrap_or_default());
    call(libc::SYS_bpf, [0, at(&attributes), 80, 0, 0, 0]).map(drop)
}

fn count_events(_: &Scene) -> Tried {
    // The software clock of this process.
    let mut attributes = [0_u32; 32];
    attributes[..2].copy_from_slice(&[1, 128]);
    let nothing = c_ulong::MAX;
    call(libc::SYS_perf_event_open, [at(&attributes), 0, nothing, nothing, 0, 0]).map(drop)
}

/// A call by the numbers of another kind of program. Answers what ours would have said.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the old gate is reached by an instruction")]
fn call_as_32_bit(_: &Scene) -> Tried {
    let answer: u64;
    // SAFETY: `getpid` by its old number touches no memory.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") 20_u64 => answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            options(nostack)
        );
    }
    if answer > 0 { Ok(()) } else { Err(libc::ENOSYS) }
}

#[cfg(target_arch = "x86_64")]
fn call_as_x32(_: &Scene) -> Tried {
    plain(0x4000_0000 | libc::SYS_getpid, [0])
}

const AT_FDCWD: c_ulong = -100_i64 as c_ulong;

const fn attempt(name: &'static str, control: Control, run: fn(&Scene) -> Tried) -> Attempt {
    Attempt { name, control, is_held_twice: false, is_loading: false, run }
}

/// Something that the domain, the limits or the lost privileges prevent as well as the filter.
const fn twice(name: &'static str, control: Control, run: fn(&Scene) -> Tried) -> Attempt {
    Attempt { is_held_twice: true, ..attempt(name, control, run) }
}

/// Something that loading an artefact takes.
const fn loading(name: &'static str, control: Control, run: fn(&Scene) -> Tried) -> Attempt {
    Attempt { is_loading: true, ..attempt(name, control, run) }
}

use Control::{Anyone, Root, Unknown};

/// What honest code does at any stage, so that the claims about the rest do not hold only because
/// nothing works any more.
pub(crate) const HONEST: &[Attempt] = &[
    attempt("take, move and give back memory", Anyone, |_| {
        let place = anonymous(libc::PROT_READ | libc::PROT_WRITE)?;
        plain(libc::SYS_mprotect, [place, 4096, libc::PROT_NONE.into()])?;
        plain(libc::SYS_madvise, [place, 4096, libc::MADV_DONTNEED.into()])?;
        let moved = [place, 4096, 8192, libc::MREMAP_MAYMOVE.into(), 0, 0];
        let place = call(libc::SYS_mremap, moved.map(i64::cast_unsigned))?;
        plain(libc::SYS_munmap, [place, 8192])
    }),
    attempt("share memory that it was given", Anyone, |_| {
        let (both, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let shared = [0, 4096, both.into(), (flags | libc::MAP_ANONYMOUS).into(), -1, 0];
        let place = call(libc::SYS_mmap, shared.map(i64::cast_unsigned))?;
        plain(libc::SYS_munmap, [place, 4096])
    }),
    attempt("allocate and free much", Anyone, |_| {
        // Enough for libc to think about giving memory back, for which it looks into `/proc`.
        (0..64).for_each(|_| drop(vec![std::hint::black_box(1_u8); 100_000]));
        let many: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 10_000]).collect();
        drop(std::hint::black_box(many));
        Ok(())
    }),
];

/// Everything that must fail.
pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Files.
    twice("read a file", Anyone, |_| open(&named("/etc/passwd"), libc::O_RDONLY)),
    twice("write a file", Anyone, |scene| open(&scene.path("new"), libc::O_CREAT | libc::O_WRONLY)),
    twice("read a folder", Anyone, |scene| open(&scene.path("."), libc::O_DIRECTORY)),
    twice("remove a file", Anyone, |s| on_path(libc::SYS_unlinkat, &s.path("victim"), 0)),
    twice("make a folder", Anyone, |s| on_path(libc::SYS_mkdirat, &s.path("made"), 0o700)),
    twice("write to itself", Anyone, |_| open(&named("/proc/self/mem"), libc::O_RDWR)),
    twice("read its parent's memory file", Unknown, |scene| {
        open(&named(&format!("/proc/{}/mem", scene.parent)), libc::O_RDONLY)
    }),
    loading("look for a file", Anyone, |_| {
        let (path, found) = (named("/etc/passwd"), [0_u64; 32]);
        call(libc::SYS_statx, [AT_FDCWD, path.as_ptr() as c_ulong, 0, 0, at(&found), 0]).map(drop)
    }),
    attempt("change its folder", Anyone, |_| {
        call(libc::SYS_chdir, [named("/tmp").as_ptr() as c_ulong, 0, 0, 0, 0, 0]).map(drop)
    }),
    attempt("watch files", Anyone, |_| plain(libc::SYS_inotify_init1, [0])),
    // The network and other processes' sockets.
    twice("connect by TCP", Anyone, |scene| on_internet(libc::SYS_connect, scene.tcp)),
    twice("listen by TCP", Anyone, |_| on_internet(libc::SYS_bind, 0)),
    attempt("send by UDP", Anyone, |scene| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
        let to = internet(scene.udp);
        call(libc::SYS_sendto, [socket, at(b"hello"), 5, 0, at(&to), 16]).map(drop)
    }),
    attempt("connect to a socket in a folder", Anyone, |scene| {
        to_unix(scene.path("socket").as_bytes_with_nul())
    }),
    twice("connect to an abstract socket", Anyone, |scene| {
        to_unix(format!("\0{}", abstract_name(scene.parent)).as_bytes())
    }),
    attempt("make a pair of sockets", Anyone, |_| {
        let pair = [0_i32; 2];
        call(libc::SYS_socketpair, [1, 1, 0, at(&pair), 0, 0]).map(drop)
    }),
    // New processes and programs.
    attempt("fork", Anyone, |_| {
        fork_by(libc::SYS_clone, [libc::SIGCHLD.cast_unsigned().into(), 0, 0, 0, 0, 0])
    }),
    attempt("fork by the newer call", Anyone, |_| {
        let mut arguments = [0_u64; 8];
        arguments[4] = libc::SIGCHLD.cast_unsigned().into();
        fork_by(libc::SYS_clone3, [at(&arguments), 64, 0, 0, 0, 0])
    }),
    attempt("start a thread", Anyone, |_| {
        let thread = std::thread::Builder::new().spawn(|| ());
        thread.map(drop).map_err(|error| error.raw_os_error().unwrap_or(-1))
    }),
    attempt("start a program", Anyone, |_| {
        let ended = std::process::Command::new("/bin/true").status();
        ended.map(drop).map_err(|error| error.raw_os_error().unwrap_or(-1))
    }),
    twice("become a program", Anyone, exec),
    attempt("make a file in memory", Anyone, |_| {
        call(libc::SYS_memfd_create, [named("x").as_ptr() as c_ulong, 0, 0, 0, 0, 0]).map(drop)
    }),
    // Other processes.
    twice("trace its parent", Root, |s| plain(libc::SYS_ptrace, [PTRACE_SEIZE, s.parent.into()])),
    twice("read its parent", Root, read_parent),
    twice("see whether its parent is there", Anyone, |scene| {
        plain(libc::SYS_kill, [scene.parent.into(), 0])
    }),
    twice("end a process", Anyone, |scene| {
        plain(libc::SYS_kill, [scene.bystander.into(), libc::SIGTERM.into()])
    }),
    twice("abort a process", Anyone, |scene| {
        let process = scene.bystander.into();
        plain(libc::SYS_tgkill, [process, process, libc::SIGABRT.into()])
    }),
    attempt("hold on to its parent", Anyone, |s| plain(libc::SYS_pidfd_open, [s.parent.into(), 0])),
    attempt("ask for a process's limits", Anyone, |scene| {
        let found = [0_u64; 2];
        let process = i64::from(scene.bystander).cast_unsigned();
        call(libc::SYS_prlimit64, [process, 7, 0, at(&found), 0, 0]).map(drop)
    }),
    // Executable memory.
    loading("make memory executable at once", Anyone, |_| {
        anonymous(libc::PROT_READ | libc::PROT_EXEC).map(drop)
    }),
    loading("make memory executable later", Anyone, |_| {
        let place = anonymous(libc::PROT_READ | libc::PROT_WRITE)?;
        plain(libc::SYS_mprotect, [place, 4096, (libc::PROT_READ | libc::PROT_EXEC).into()])
    }),
    attempt("make memory executable by key", Unknown, |_| {
        let place = anonymous(libc::PROT_READ | libc::PROT_WRITE)?;
        plain(libc::SYS_pkey_mprotect, [place, 4096, libc::PROT_EXEC.into(), -1])
    }),
    attempt("make all memory executable", Anyone, |_| {
        plain(libc::SYS_personality, [libc::READ_IMPLIES_EXEC.into()])
    }),
    attempt("handle its own page faults", Unknown, |_| plain(libc::SYS_userfaultfd, [1])),
    // Getting its rights back.
    twice("raise a limit", Anyone, raise_limit),
    attempt("be dumped and traced again", Anyone, |_| {
        plain(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1])
    }),
    attempt("outlive its parent", Anyone, |_| {
        plain(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG.into(), 0])
    }),
    twice("run before others", Root, |_| plain(libc::SYS_setpriority, [0, 0, -20])),
    attempt("run with others", Anyone, |_| {
        let nothing = 0_i32;
        call(libc::SYS_sched_setscheduler, [0, 0, at(&nothing), 0, 0, 0]).map(drop)
    }),
    twice("become another user", Root, |_| plain(libc::SYS_setresuid, [54_321; 3])),
    twice("have another root", Root, |scene| {
        call(libc::SYS_chroot, [scene.path(".").as_ptr() as c_ulong, 0, 0, 0, 0, 0]).map(drop)
    }),
    twice("mount", Unknown, |scene| {
        let (from, kind) = (named("none"), named("tmpfs"));
        let place = scene.path(".");
        let [from, place, kind] = [&from, &place, &kind].map(|text| text.as_ptr() as c_ulong);
        call(libc::SYS_mount, [from, place, kind, 0, 0, 0]).map(drop)
    }),
    twice("have other mounts", Root, |_| plain(libc::SYS_unshare, [libc::CLONE_NEWNS.into()])),
    attempt("have descriptors of its own", Anyone, |_| {
        plain(libc::SYS_unshare, [libc::CLONE_FILES.into()])
    }),
    attempt("enter a namespace", Unknown, |_| plain(libc::SYS_setns, [0, 0])),
    twice("set the clock", Root, |_| plain(libc::SYS_settimeofday, [0, 0])),
    // Doors to the rest of the kernel.
    attempt("load a program into the kernel", Root, make_bpf_map),
    attempt("count events", Unknown, count_events),
    attempt("make a ring of calls", Unknown, |_| {
        let parameters = [0_u32; 30];
        call(libc::SYS_io_uring_setup, [1, at(&parameters), 0, 0, 0, 0]).map(drop)
    }),
    attempt("look at keys", Unknown, |_| plain(libc::SYS_keyctl, [0, -3, 0])),
    attempt("share memory", Unknown, |_| plain(libc::SYS_shmget, [0, 4096, 0o600])),
    attempt("control a device", Anyone, |_| {
        let off = 0_i32;
        call(libc::SYS_ioctl, [1, libc::FIONBIO, at(&off), 0, 0, 0]).map(drop)
    }),
    attempt("take its filter off", Unknown, |_| plain(libc::SYS_seccomp, [0, 0, 0])),
    #[cfg(target_arch = "x86_64")]
    attempt("read a file by the old call", Anyone, |_| {
        call(libc::SYS_open, [named("/etc/passwd").as_ptr() as c_ulong, 0, 0, 0, 0, 0]).map(drop)
    }),
    #[cfg(target_arch = "x86_64")]
    attempt("call as a 32-bit program", Unknown, call_as_32_bit),
    #[cfg(target_arch = "x86_64")]
    attempt("call as an x32 program", Unknown, call_as_x32),
];

const PTRACE_SEIZE: i64 = 0x4206;
