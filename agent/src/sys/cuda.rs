//! libtorch's GPU half, where it is installed: the agent is built without it.
//!
//! *In*: nothing. *Out*: whether `libtorch_cuda` is loaded, and what the driver says of the GPUs. *Invariant*: a machine
//! without them answers "none", never an error.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Loads `libtorch_cuda.so` if the loader finds it; it registers itself with libtorch. Call it before any other thread
/// uses libtorch.
pub fn load() -> bool {
    static LOADED: OnceLock<bool> = OnceLock::new();
    *LOADED.get_or_init(|| cfg!(target_os = "linux") && open(c"libtorch_cuda.so").is_some() && loaded_driver())
}

/// The driver's library, which the runtime would look for later: a sandbox may be around us then. Without it the runtime
/// finds no device, which is its own to say.
fn loaded_driver() -> bool {
    let _ = open(c"libcuda.so.1");
    true
}

fn open(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a valid C string; the library's initialisers are libtorch's or the driver's own and run once.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    (!handle.is_null()).then_some(handle)
}

/// One GPU as the driver's management library (NVML) describes it, in PCI order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Marketing name.
    pub name: String,
    /// All its memory, in bytes.
    pub total: u64,
    /// Memory nobody uses now, in bytes.
    pub free: u64,
}

/// Every GPU of the machine; empty without NVIDIA's driver. Makes no context on them.
pub fn gpus() -> Vec<Gpu> {
    Nvml::open().map_or_else(Vec::new, |nvml| nvml.gpus())
}

#[repr(C)]
#[derive(Default)]
struct NvmlMemory {
    total: u64,
    free: u64,
    used: u64,
}

type Init = unsafe extern "C" fn() -> c_int;
type Count = unsafe extern "C" fn(*mut c_uint) -> c_int;
type Handle = unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int;
type Name = unsafe extern "C" fn(*mut c_void, *mut c_char, c_uint) -> c_int;
type Memory = unsafe extern "C" fn(*mut c_void, *mut NvmlMemory) -> c_int;

struct Nvml {
    count: Count,
    handle: Handle,
    name: Name,
    memory: Memory,
}

impl Nvml {
    fn open() -> Option<Self> {
        let library = open(c"libnvidia-ml.so.1")?;
        let symbol = |name: &CStr| {
            // SAFETY: a valid handle and a valid C string.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!address.is_null()).then_some(address)
        };
        // SAFETY: these are NVML's documented C signatures for these names, unchanged since their _v2 forms.
        unsafe {
            let init = std::mem::transmute::<*mut c_void, Init>(symbol(c"nvmlInit_v2")?);
            let nvml = Self {
                count: std::mem::transmute::<*mut c_void, Count>(symbol(c"nvmlDeviceGetCount_v2")?),
                handle: std::mem::transmute::<*mut c_void, Handle>(symbol(c"nvmlDeviceGetHandleByIndex_v2")?),
                name: std::mem::transmute::<*mut c_void, Name>(symbol(c"nvmlDeviceGetName")?),
                memory: std::mem::transmute::<*mut c_void, Memory>(symbol(c"nvmlDeviceGetMemoryInfo")?),
            };
            (init() == 0).then_some(nvml)
        }
    }

    fn gpus(&self) -> Vec<Gpu> {
        let mut count = 0;
        // SAFETY: NVML is initialised and the pointer is to a c_uint.
        if unsafe { (self.count)(&raw mut count) } != 0 {
            return Vec::new();
        }
        (0..count.min(64)).filter_map(|index| self.gpu(index)).collect()
    }

    fn gpu(&self, index: c_uint) -> Option<Gpu> {
        let mut handle = std::ptr::null_mut();
        let mut name = [0 as c_char; 96];
        let mut memory = NvmlMemory::default();
        // SAFETY: NVML is initialised; each pointer is to the type it fills, and the name's length goes with it. The
        // array keeps a zero at its end because NVML is told of one byte less.
        unsafe {
            let found = (self.handle)(index, &raw mut handle) == 0
                && (self.name)(handle, name.as_mut_ptr(), name.len() as c_uint - 1) == 0
                && (self.memory)(handle, &raw mut memory) == 0;
            found.then(|| Gpu {
                name: CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned(),
                total: memory.total,
                free: memory.free,
            })
        }
    }
}
