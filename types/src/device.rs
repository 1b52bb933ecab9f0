//! What a node is made of and what its owner offers. Claims (offer, region) and facts (measured) stay apart.

use crate::units::{Bytes, PicoPoints};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Kind of device a model runs on; PyTorch's device names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum DeviceClass {
    /// The processor, with main memory.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Mps,
}

impl DeviceClass {
    /// PyTorch's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Mps => "mps",
        }
    }
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeviceClass {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "mps" => Ok(Self::Mps),
            other => Err(format!("device class {other:?} must be cpu, cuda or mps")),
        }
    }
}

/// One device of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Unique in the node: `cpu0`, `cuda0`.
    pub name: String,
    /// Its kind.
    pub class: DeviceClass,
    /// Free text for people and CEL selectors: `model`, `cores` …
    pub attributes: BTreeMap<String, String>,
    /// Memory that the owner lets Nightshift use.
    pub memory: Bytes,
}

/// What an agent measured of one machine. Integers: 10⁹ floating point operations a second, bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// Single precision matrix product, GFLOP/s.
    pub gigaflops: u64,
    /// Copy, bytes a second.
    pub memory_bandwidth: u64,
    /// Reading a model file into memory, bytes a second.
    pub load_bandwidth: u64,
}

/// What the node's owner asks for and declares of it; a claim, never a fact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// The ask, in points per hour.
    pub price_per_hour: PicoPoints,
    /// Where the machine stands, in the owner's words.
    pub region: String,
    /// Labels the owner declares; shown under `declared.nightshift.dev/`.
    pub labels: BTreeMap<String, String>,
}

/// How far the operator trusts a node; set by the operator alone. Ordered: a stricter tier is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum TrustTier {
    /// Anybody's machine.
    #[default]
    Public,
    /// The operator knows the owner.
    Vetted,
    /// The operator's own machine.
    Operator,
}

impl TrustTier {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "Public",
            Self::Vetted => "Vetted",
            Self::Operator => "Operator",
        }
    }
}

impl fmt::Display for TrustTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrustTier {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "Public" => Ok(Self::Public),
            "Vetted" => Ok(Self::Vetted),
            "Operator" => Ok(Self::Operator),
            other => Err(format!("trust tier {other:?} must be Public, Vetted or Operator")),
        }
    }
}
