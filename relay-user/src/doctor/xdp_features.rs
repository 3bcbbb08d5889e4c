//! What drivers can do with XDP, as the kernel tells by its netlink family `netdev` (Linux 6.3;
//! Documentation/netlink/specs/netdev.yaml).

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::facts::XdpFeatures;

/// NETDEV_CMD_DEV_GET
const DEVICE_GET: u8 = 1;
/// NETDEV_A_DEV_IFINDEX
const IFINDEX: u16 = 1;
/// NETDEV_A_DEV_XDP_FEATURES
const FEATURES: u16 = 3;

/// NETDEV_XDP_ACT_BASIC, _REDIRECT, _NDO_XMIT
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const NDO_XMIT: u64 = 4;

/// A question about a device, or the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    ifindex: u32,
    features: Option<u64>,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEVICE_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attribute().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attribute().emit(buffer);
    }
}

impl Device {
    fn attribute(&self) -> DefaultNla {
        DefaultNla::new(IFINDEX, self.ifindex.to_ne_bytes().to_vec())
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(payload: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self { ifindex: 0, features: None };
        for attribute in NlasIterator::new(payload) {
            let attribute = attribute?;
            match (attribute.kind(), attribute.value()) {
                (IFINDEX, value) => device.ifindex = value.try_into().map_or(0, u32::from_ne_bytes),
                (FEATURES, value) => device.features = value.try_into().ok().map(u64::from_ne_bytes),
                _ => {}
            }
        }
        Ok(device)
    }
}

/// Asks for those of an interface; `None` if the kernel does not tell.
pub(super) async fn of(handle: &mut GenetlinkHandle, ifindex: u32) -> Result<Option<XdpFeatures>> {
    let mut question = NetlinkMessage::from(GenlMessage::from_payload(Device { ifindex, features: None }));
    question.header.flags = NLM_F_REQUEST;
    let answers = handle.request(question).await.context("ask for the netlink family netdev")?;
    let answer = std::pin::pin!(answers).try_next().await.context("read what the kernel answers")?;
    let Some(NetlinkPayload::InnerMessage(message)) = answer.map(|answer| answer.payload) else {
        return Ok(None);
    };
    Ok(message.payload.features.map(|bits| XdpFeatures {
        basic: bits & BASIC != 0,
        redirect: bits & REDIRECT != 0,
        target: bits & NDO_XMIT != 0,
    }))
}
