// SPDX-License-Identifier: GPL-2.0-only
//! The error numbers that the ported calls return.

use core::fmt;

macro_rules! errnos {
    ($($name:ident = $nr:literal),+ $(,)?) => {
        /// A kernel error number, without its minus sign.
        /// C: uapi/asm-generic/errno-base.h, errno.h; EHWPOISON as there.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[allow(missing_docs, clippy::upper_case_acronyms)]
        pub enum Errno { $($name = $nr),+ }

        impl Errno {
            /// Every error number the model knows.
            pub const ALL: &'static [Errno] = &[$(Errno::$name),+];
            /// Its name, as the kernel writes it.
            pub fn name(self) -> &'static str {
                match self { $(Errno::$name => stringify!($name)),+ }
            }
        }
    };
}

errnos! {
    ENOENT = 2, EINTR = 4, EAGAIN = 11, ENOMEM = 12, EFAULT = 14, EBUSY = 16,
    EEXIST = 17, EINVAL = 22, EMLINK = 31, EOVERFLOW = 75, EOPNOTSUPP = 95,
    EREMOTEIO = 121, EHWPOISON = 133,
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
