//! Why a tunnel or a stream ends: the application error codes, and the sentence for each.
//!
//! Normative text: `shared/PROTOCOL.md`, "Close codes".

/// Why a connection was closed. The number is QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Close {
    /// The program stops or restarts; the peer may dial again at once.
    Bye = 0,
    /// The peer broke the protocol: not a matter of trying again with the same build.
    Protocol = 1,
    /// No common version.
    Version = 2,
    /// This connector is unknown here, or was revoked: it needs a join token.
    Unknown = 3,
    /// The join token is not valid here (wrong, used, expired, revoked).
    Token = 4,
    /// The peer did not say hello, or did not read its control stream, in time.
    TooSlow = 5,
    /// A limit of the relay is reached; try later.
    Busy = 6,
    /// A newer connection of the same connector took this one's place.
    Replaced = 7,
}

impl Close {
    const ALL: [Self; 8] = [
        Self::Bye,
        Self::Protocol,
        Self::Version,
        Self::Unknown,
        Self::Token,
        Self::TooSlow,
        Self::Busy,
        Self::Replaced,
    ];

    /// QUIC's application error code.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The reason with this code; a later version may know more.
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|close| u64::from(close.code()) == code)
    }

    /// Whether dialling again can help without a person doing something first.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Version | Self::Unknown | Self::Token)
    }

    /// One sentence for the operator.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Bye => "the relay stops or restarts",
            Self::Protocol => {
                "the other end broke the tunnel protocol; run the same version on both ends"
            }
            Self::Version => {
                "the relay and this connector have no protocol version in common; update the older one"
            }
            Self::Unknown => {
                "the relay does not know this connector, or it was revoked; join again with a new token"
            }
            Self::Token => "the relay refused the join token",
            Self::TooSlow => "the other end did not answer in time",
            Self::Busy => "the relay is full; it is tried again",
            Self::Replaced => "a newer connection of this connector took over",
        }
    }
}

/// Why the relay gave up a unit's stream (`RESET_STREAM`'s code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// Its time had passed, or what it refers to was dropped.
    Late = 0x10,
    /// The feed ended.
    FeedEnded = 0x11,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_finds_its_reason() {
        for close in Close::ALL {
            assert_eq!(Close::from_code(close.code().into()), Some(close));
        }
        assert_eq!(Close::from_code(999), None);
    }
}
