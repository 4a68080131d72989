//! What a model can run on, and what is told about that.

use std::{collections::BTreeMap, fmt, mem, str::FromStr, sync::Mutex, time::Duration};

use crate::{Error, Result};

/// What a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// A GPU if the machine has one, the CPU otherwise. A software renderer is no GPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU: the one of this number in [`devices`], or the first.
    Gpu(Option<usize>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(None) => f.write_str("gpu"),
            Self::Gpu(Some(i)) => write!(f, "gpu:{i}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = name.strip_prefix("gpu:").and_then(|i| i.parse().ok());
        match (name, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("gpu", _) => Ok(Self::Gpu(None)),
            (_, Some(i)) => Ok(Self::Gpu(Some(i))),
            _ => Err(Error::Request {
                thing: "device".into(),
                expected: "auto, cpu, gpu or gpu:N".into(),
                found: format!("`{name}`"),
            }),
        }
    }
}

/// Which kernels run on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Plain WGSL: runs everywhere.
    Plain,
    /// Sums by subgroups, products of f16.
    Subgroup,
    /// Also products of many tokens on matrix units.
    Matrix,
}

impl Tier {
    /// Every tier.
    pub const ALL: &[Self] = &[Self::Plain, Self::Subgroup, Self::Matrix];

    /// The tier of this name: `plain`, `subgroup` or `matrix`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.to_string() == name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Subgroup => "subgroup",
            Self::Matrix => "matrix",
        })
    }
}

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, as in `gpu:N`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The API that it is reached by, such as `vulkan`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// The driver and its version.
    pub driver: String,
    /// The best kernels that it can run.
    pub tier: Tier,
    /// Smallest and largest size of a subgroup.
    pub subgroup: (u32, u32),
    /// Largest buffer that a kernel can see, in bytes.
    pub binding_limit: u64,
}

/// How often an operation ran, and how long that took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpTime {
    /// The operation or kernel, and what it ran on.
    pub name: String,
    /// How often.
    pub count: usize,
    /// All together, from the end of the operation before to its own.
    pub time: Duration,
    /// Bytes of weights that it read.
    pub bytes: u64,
    /// Additions and multiplications of products.
    pub operations: u64,
}

/// Times of operations, added up by their names.
#[derive(Default)]
pub(crate) struct OpTimes(Mutex<BTreeMap<String, OpTime>>);

impl OpTimes {
    pub(crate) fn add(&self, op: OpTime) {
        let mut times = self.0.lock().expect("no holder panics");
        let OpTime { name, count, time, bytes, operations } = op;
        let sum = times.entry(name.clone()).or_insert_with(|| OpTime { name, ..OpTime::default() });
        sum.count += count;
        sum.time += time;
        sum.bytes += bytes;
        sum.operations += operations;
    }

    /// The times so far, which are then forgotten.
    pub(crate) fn take(&self) -> Vec<OpTime> {
        mem::take(&mut *self.0.lock().expect("no holder panics")).into_values().collect()
    }
}
