//! Bytes as typed values: a bounds-checked reader, writers, and codecs for keys and values.

pub mod bytes;
pub(crate) mod escape;
pub(crate) mod frame;
pub mod schema;
pub mod trailer;
pub mod typed;

/// Declares `from_stored` for an enum whose numbers are part of a format.
macro_rules! stored_enum {
    ($name:ident { $($variant:ident),+ $(,)? }) => {
        impl $name {
            /// Returns the variant with the stored `number`.
            ///
            /// # Errors
            /// `Corrupt` for 0, which no version writes; `Version` for a number that this build does not know.
            pub fn from_stored(number: u32) -> $crate::error::Result<Self> {
                match number {
                    $(known if known == Self::$variant as u32 => Ok(Self::$variant),)+
                    0 => Err($crate::error::Error::corrupt(concat!(stringify!($name), " is missing"))),
                    unknown => Err($crate::error::Error::version(concat!("unknown ", stringify!($name)))
                        .with("found", unknown)),
                }
            }
        }
    };
}
pub(crate) use stored_enum;
