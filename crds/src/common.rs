//! Words and amounts that several kinds share. Each carries its own schema, so a bound or a message stands once.

use nightshift_types as types;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

pub use k8s_openapi::api::core::v1::{Taint, Toleration};
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A string newtype with a CEL rule. In its message `{path}` becomes the field's path ([`crate::schema`]).
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, max $max:literal, $(rule $rule:literal, message $message:literal,)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "maxLength": $max,
                    "x-kubernetes-validations": [$({"rule": $rule, "message": $message},)+],
                })
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

text! {
    /// Points: a non-negative decimal with at most 12 decimals, never a float.
    PointsString, max 64,
    rule "self.matches('^[0-9]{1,15}([.][0-9]{1,12})?$')",
    message "{path} must be a non-negative decimal number of points with at most 12 decimals, such as \"0.25\"",
}

text! {
    /// A non-negative decimal with at most 12 decimals: a threshold, a tolerance, an amount of work.
    DecimalString, max 64,
    rule "self.matches('^[0-9]{1,15}([.][0-9]{1,12})?$')",
    message "{path} must be a non-negative decimal number with at most 12 decimals, in quotes, such as \"0.5\"",
}

text! {
    /// A decimal of either sign with at most 12 decimals.
    SignedDecimalString, max 64,
    rule "self.matches('^-?[0-9]{1,15}([.][0-9]{1,12})?$')",
    message "{path} must be a decimal number with at most 12 decimals, in quotes, such as \"-0.485\"",
}

text! {
    /// A colour: red, green and blue in hexadecimal.
    ColorString, max 7,
    rule "self.matches('^#[0-9a-fA-F]{6}$')",
    message "{path} must be a colour in hexadecimal, red, green, blue, such as \"#ffffff\"",
}

text! {
    /// A decimal from 0 to 1 with at most 12 decimals: a share or a probability.
    FractionString, max 64,
    rule "self.matches('^(0([.][0-9]{1,12})?|1([.]0{1,12})?)$')",
    message "{path} must be a decimal number from 0 to 1 with at most 12 decimals, in quotes, such as \"0.9\"",
}

text! {
    /// `sha256:` and 64 lowercase hexadecimal digits.
    DigestString, max 128,
    rule "self.matches('^sha256:[0-9a-f]{64}$')",
    message "{path} must be sha256: followed by 64 lowercase hexadecimal digits, as `nightshift push FILE` or `sha256sum FILE` print them",
}

text! {
    /// Where a model or an input is read from. A `data:` URI may be as long as an inline input.
    SourceUri, max 32768,
    rule "self.matches('^(store|https?|s3|data|file):')",
    message "{path} must begin with store:, https:, http:, s3:, data: or file:; upload a file of yours with `nightshift push FILE` and use the store: URI it prints",
    rule "!self.startsWith('store:') || self.matches('^store://sha256/[0-9a-f]{64}(/[A-Za-z0-9_.-]{1,128})?$')",
    message "{path}: a store URI is store://sha256/DIGEST with 64 lowercase hexadecimal digits, then /NAME or nothing; use the one that `nightshift push FILE` prints",
}

text! {
    /// Where results are written to.
    TargetUri, max 2048,
    rule "self.matches('^(https?|s3|file):')",
    message "{path} must begin with s3:, https:, http: or file:; leave it out to fetch results through the gateway instead",
}

text! {
    /// A time of day on the 24-hour clock.
    ClockTime, max 16,
    rule "self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')",
    message "{path} must be a time of day as HH:MM on the 24-hour clock, such as \"22:30\"; midnight at the end of a day is \"24:00\"",
}

impl PointsString {
    /// The amount. Errors if the text never passed the schema.
    pub fn pico(&self) -> Result<types::PicoPoints, types::UnitError> {
        self.0.parse()
    }
}

impl From<types::PicoPoints> for PointsString {
    /// Never negative: what the API shows of an amount below zero is `0`.
    fn from(points: types::PicoPoints) -> Self {
        Self(points.max(types::PicoPoints::ZERO).to_string())
    }
}

impl From<types::Digest> for DigestString {
    fn from(digest: types::Digest) -> Self {
        Self(format!("sha256:{}", digest.hex()))
    }
}

/// An enum of the API: CamelCase words unless one is given, with `as_str` and `Display`.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[$name] = &[$(Self::$variant,)+];
            /// The API's word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        // By hand: a derive would turn documented variants into `oneOf`, which a structural schema cannot hold.
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "enum": [$($word,)+]})
            }
        }
    };
}
pub(crate) use words;

words! {
    /// How far the operator trusts a node. Ordered: a stricter tier is greater.
    TrustTier {
        /// Anybody's machine.
        Public = "Public",
        /// The operator knows the owner.
        Vetted = "Vetted",
        /// The operator's own machine.
        Operator = "Operator",
    }
}

impl From<TrustTier> for types::TrustTier {
    fn from(tier: TrustTier) -> Self {
        match tier {
            TrustTier::Public => Self::Public,
            TrustTier::Vetted => Self::Vetted,
            TrustTier::Operator => Self::Operator,
        }
    }
}

words! {
    /// How results are checked. Ordered: a stricter check is greater.
    Verification {
        /// Not at all.
        None = "None",
        /// By replicas on other owners' nodes, the rarer the longer a node has been right.
        Adaptive = "Adaptive",
        /// Every result, by a replica.
        Always = "Always",
    }
}

words! {
    /// Kind of device a model runs on; PyTorch's device names.
    DeviceClass {
        /// The processor, with main memory.
        Cpu = "cpu",
        /// An NVIDIA GPU.
        Cuda = "cuda",
        /// An Apple GPU.
        Mps = "mps",
    }
}

impl From<DeviceClass> for types::DeviceClass {
    fn from(class: DeviceClass) -> Self {
        match class {
            DeviceClass::Cpu => Self::Cpu,
            DeviceClass::Cuda => Self::Cuda,
            DeviceClass::Mps => Self::Mps,
        }
    }
}

impl From<types::DeviceClass> for DeviceClass {
    fn from(class: types::DeviceClass) -> Self {
        match class {
            types::DeviceClass::Cpu => Self::Cpu,
            types::DeviceClass::Cuda => Self::Cuda,
            types::DeviceClass::Mps => Self::Mps,
        }
    }
}

/// A Secret in the object's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
