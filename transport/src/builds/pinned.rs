//! The UCX builds that can be fetched, each pinned to one wheel per architecture.
//!
//! Most wheels are those of the Python package `libucx-cu12`: UCX's shared libraries, which load on
//! machines without CUDA, too. Where a UCX version was published several times (`1.16.0.post1`,
//! `1.16.0.post2`), the last one is taken: they differ in packaging, not in UCX. They have no
//! InfiniBand. The UCX that the wheels of `nixl-cu12` bring along has it, and is what a vLLM with
//! NIXL runs: `nixl-0.7.1` is UCX 1.19.0. The hashes are those of the files that the index served
//! on 2026-11-23, NIXL's on 2026-11-28.

/// The Python package whose wheels carry a UCX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    /// `libucx-cu12`: UCX, and nothing else.
    Libucx,
    /// `nixl-cu12`: NIXL, with a UCX that auditwheel has put beside it.
    Nixl,
}

impl Package {
    /// Its name in the package index.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Libucx => "libucx-cu12",
            Self::Nixl => "nixl-cu12",
        }
    }

    /// What pip must be told to take the pinned wheel for `arch` and no other. NIXL has one per
    /// version of Python, all with the same libraries; which Python runs pip must not matter.
    pub(super) fn pip_args(self, arch: &str) -> Vec<String> {
        match self {
            Self::Libucx => Vec::new(),
            Self::Nixl => ["--implementation=cp", "--python-version=3.12", "--abi=cp312"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("--platform=manylinux_2_28_{arch}")])
                .collect(),
        }
    }
}

/// One UCX build and the wheels it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    /// What users write: UCX's own version, `1.16.0`; or who brings it along, `nixl-0.7.1`.
    pub(super) version: &'static str,
    pub(super) package: Package,
    /// Version of the wheel, as the package index knows it: `1.16.0.post2`.
    pub(super) wheel: &'static str,
    sha256_x86_64: &'static str,
    sha256_aarch64: &'static str,
}

impl Pinned {
    /// SHA-256 of the wheel for `arch` (as in [`std::env::consts::ARCH`]) in lower-case hex, if
    /// there is such a wheel.
    pub(super) fn sha256(&self, arch: &str) -> Option<&'static str> {
        match arch {
            "x86_64" => Some(self.sha256_x86_64),
            "aarch64" => Some(self.sha256_aarch64),
            _ => None,
        }
    }

    /// A version whose wheels all have this hash.
    #[cfg(test)]
    pub(super) fn made_up(sha256: &'static str) -> Self {
        Self {
            version: "9.9.9",
            package: Package::Libucx,
            wheel: "9.9.9",
            sha256_x86_64: sha256,
            sha256_aarch64: sha256,
        }
    }
}

/// Finds a build by what users write, or a UCX by the version of its wheel.
pub(super) fn find(version: &str) -> Option<&'static Pinned> {
    let by_wheel = |p: &Pinned| p.package == Package::Libucx && p.wheel == version;
    PINNED.iter().find(|p| p.version == version || by_wheel(p))
}

/// `1.14.1, 1.15.0, …`, for error messages.
pub(super) fn known() -> String {
    PINNED.iter().map(|p| p.version).collect::<Vec<_>>().join(", ")
}

/// UCX by itself, oldest first, and then what others bring along.
pub(super) const PINNED: &[Pinned] = &[
    Pinned {
        version: "1.14.1",
        package: Package::Libucx,
        wheel: "1.14.1.post2",
        sha256_x86_64: "60d6b6e6c929264cc29549e4e23c86c9a5b0eb44b06999b6afb17eb736bbd56e",
        sha256_aarch64: "752c9ca515c0be91a3203dd4853134872ddb0b2bd93ae9526d7e9d41b23cf71f",
    },
    Pinned {
        version: "1.15.0",
        package: Package::Libucx,
        wheel: "1.15.0.post2",
        sha256_x86_64: "1f139d2b8393053fa5447efe1258d8246322a461a1c18e7b04c0163d2541fb01",
        sha256_aarch64: "4c904477bd1411359e48c6e0ffd8673e561db1be03dcd71638de4979ecfb9d42",
    },
    Pinned {
        version: "1.16.0",
        package: Package::Libucx,
        wheel: "1.16.0.post2",
        sha256_x86_64: "cde033822102393ce304063b03f1663122458ecd3d93fecb43c6ceb3988228d4",
        sha256_aarch64: "96024c92e19ab432da95bc7bdc6a9789e4be42f167a9517842215091b49de07f",
    },
    Pinned {
        version: "1.17.0",
        package: Package::Libucx,
        wheel: "1.17.0.post1",
        sha256_x86_64: "3e4a68a2df02ad0efe6135819a879078a904effb0d9c563a2104cb9b71aa5b59",
        sha256_aarch64: "da5cf98d20b1c400aef323ed730e2e917627296568143a3f3b69141040521b24",
    },
    Pinned {
        version: "1.18.0",
        package: Package::Libucx,
        wheel: "1.18.0.post1",
        sha256_x86_64: "5cd1d65e810d1fe58bd7e3d840f3306faf46b72fb9808110c8aace6d3e4877e4",
        sha256_aarch64: "36fb86852c2407ed9f8071139da3ad2ce5323b78f1ff40d7354febd50c508990",
    },
    Pinned {
        version: "1.18.1",
        package: Package::Libucx,
        wheel: "1.18.1",
        sha256_x86_64: "d8fa5fc4bd76b2796e083bb3a7fb27373ccd9428daf6fe64d0dfd02fc0c95420",
        sha256_aarch64: "0d8362f7c84fbb44afd659a4ff5b925f6e5ec0a9052a4a891afbbb8c59daa2dd",
    },
    Pinned {
        version: "1.19.0",
        package: Package::Libucx,
        wheel: "1.19.0",
        sha256_x86_64: "64b9448f23c7bb29be30d21bac5742f7297845d0f0c159e6302670b35e71251f",
        sha256_aarch64: "72e057086c7043f1694a2325da9577ad078a97e36d71db99070339c7797ecc39",
    },
    Pinned {
        version: "1.20.0",
        package: Package::Libucx,
        wheel: "1.20.0",
        sha256_x86_64: "596e6a4e1272a027cad7e44155865c26a6d76393c46db690032f50723bfbbd98",
        sha256_aarch64: "5e9011cdd3c389cec4b270bc31ef7f70133fe9bc8fc5136628953173df56395a",
    },
    Pinned {
        version: "1.20.1",
        package: Package::Libucx,
        wheel: "1.20.1",
        sha256_x86_64: "30cf28f3d157416edd806fc7f7359147234e41d8830b223ef9f76a9f648aa6c5",
        sha256_aarch64: "a0b1fe6197ae158adb7ec64cfa11151c4ed07d5c6a614e974fda7b909784b3db",
    },
    Pinned {
        version: "1.21.0",
        package: Package::Libucx,
        wheel: "1.21.0",
        sha256_x86_64: "975d167df36dde7488838998d12329e52a2ecfdf120318689f56a4283fcc2e5e",
        sha256_aarch64: "fabca9bd270b4726083c4d4da2cfa4d54b2163688b2f6df202171eeadd3f5e51",
    },
    Pinned {
        version: "1.22.0",
        package: Package::Libucx,
        wheel: "1.22.0",
        sha256_x86_64: "5cbbef0c140a0a158ae3486089af659b38822b2234cd3dc90ba40a5e6553402a",
        sha256_aarch64: "269aa884c3f83ced2ffb5f7704fb3a2da56d9402431222ddbe2901c1ae4fb227",
    },
    Pinned {
        version: "nixl-0.7.1",
        package: Package::Nixl,
        wheel: "0.7.1",
        sha256_x86_64: "759e29c9f75f35bcd0ff425c6ae116cae89aa05b08dad5d7ba9d2a01d2bd9711",
        sha256_aarch64: "27426b763e3cc7d70b7abd507f9f25a47b8db61132e4a91152bf9feb05d2a93b",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn versions_and_hashes_are_well_formed_and_unique() {
        let mut seen = HashSet::new();
        for pinned in PINNED {
            assert!(pinned.wheel.starts_with(pinned.version.trim_start_matches("nixl-")));
            assert!(seen.insert(pinned.version));
            for arch in ["x86_64", "aarch64"] {
                let sha256 = pinned.sha256(arch).unwrap();
                assert_eq!(sha256.len(), 64);
                assert!(sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
                assert!(seen.insert(sha256), "{sha256} pins two wheels");
            }
        }
    }

    #[test]
    fn a_version_is_found_by_either_name() {
        assert_eq!(find("1.16.0"), find("1.16.0.post2"));
        assert_eq!(find("1.16.0").unwrap().wheel, "1.16.0.post2");
        assert_eq!(find("1.16.0.post1"), None);
        assert_eq!(find("2.0.0"), None);
        assert_eq!(find("nixl-0.7.1").unwrap().wheel, "0.7.1");
        assert_eq!(find("0.7.1"), None, "that would read as a UCX");
    }

    #[test]
    fn a_wheel_that_depends_on_python_is_named_to_pip_in_full() {
        assert!(Package::Libucx.pip_args("x86_64").is_empty());
        let args = Package::Nixl.pip_args("aarch64");
        assert!(args.contains(&"--abi=cp312".to_owned()), "{args:?}");
        assert!(args.contains(&"--platform=manylinux_2_28_aarch64".to_owned()), "{args:?}");
    }
}
