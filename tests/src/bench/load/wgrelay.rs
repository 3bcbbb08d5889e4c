//! wgrelay itself under the load of the others: the whole daemon, one real session.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    flows::{Flow, Flows, PAYLOAD, RELAY},
    peer::Peer,
    place::{DEVICE, Place},
};
use crate::{
    Member, Relay,
    wait::{now, until},
};

/// After how long a session is replaced. A relay removes it after 185 s.
const RENEWAL: Duration = Duration::from_secs(120);

/// wgrelay in a place, with one session from [`Flow`] 0's source to its destination.
#[derive(Debug)]
pub struct WgrelayInPlace {
    relay: Relay,
    peers: [Peer; 2],
    /// The receiver index that the second peer has chosen.
    index: u32,
    since: Instant,
}

impl WgrelayInPlace {
    /// Starts it in an XDP mode, and makes the session.
    ///
    /// # Errors
    /// If its peers' handshakes are not answered.
    pub fn start(place: &mut Place, mode: &str) -> Result<Self> {
        Self::start_with(place, mode, 0)
    }

    /// The same with so many more members, which are nowhere.
    ///
    /// # Errors
    /// If its peers' handshakes are not answered.
    pub fn start_with(place: &mut Place, mode: &str, others: usize) -> Result<Self> {
        let (lab, flow) = (place.relay.lab().clone(), Flow { number: 0 });
        let peers =
            [Peer::new(&lab, "peer-a", flow.source())?, Peer::new(&lab, "peer-b", flow.destination())?];
        let mut relay = Relay::new(&place.relay);
        relay.addresses = vec![(*RELAY.ip()).into()];
        relay.attach = vec![DEVICE.to_owned()];
        relay.changes = vec![
            ("xdp_mode = \"auto\"".to_owned(), format!("xdp_mode = \"{mode}\"")),
            // The two make more handshakes in a second than any hosts would.
            ("[limits]\n".to_owned(), "[limits]\ninitiations = 10000\n".to_owned()),
        ];
        relay.members = peers
            .iter()
            .zip(["a", "b"])
            .map(|(peer, name)| Member {
                name: name.to_owned(),
                public_key: peer.keys.public.clone(),
                relayed: true,
                endpoints: Vec::new(),
            })
            .collect();
        relay.members.extend((0..others).map(|n| Member {
            name: format!("other-{n}"),
            public_key: STANDARD.encode(std::array::from_fn::<u8, 32, _>(|_| fastrand::u8(..))),
            relayed: false,
            endpoints: Vec::new(),
        }));
        relay.start();
        let mut this = Self { relay, peers, index: 0, since: now() };
        this.make_session(place)?;
        Ok(this)
    }

    /// Replaces the session if it is getting old; whether it was.
    ///
    /// # Errors
    /// If the handshakes are not answered.
    pub fn renew(&mut self, place: &mut Place) -> Result<bool> {
        let due = self.since.elapsed() >= RENEWAL;
        if due {
            self.make_session(place)?;
        }
        Ok(due)
    }

    fn make_session(&mut self, place: &mut Place) -> Result<()> {
        for (peer, name) in self.peers.iter_mut().zip(["a", "b"]) {
            peer.connect(place, &self.relay.keys.public)?;
            let endpoint = peer.address.to_string();
            until("registration of a peer of the load", Duration::from_secs(10), || {
                (self.relay.host(name).endpoint.as_ref() == Some(&endpoint)).then_some(())
            });
        }
        self.meet(place)?;
        let [a, _] = &mut self.peers;
        let frame = a.encrypt(place, &[0x45; 64], 1)?;
        let index = frame[0].get(PAYLOAD + 4..).and_then(|rest| rest.first_chunk());
        self.index = u32::from_le_bytes(*index.context("transport data has an index")?);
        self.since = now();
        Ok(())
    }

    /// The two peers make a handshake, which takes so long.
    ///
    /// # Errors
    /// If the relay does not relay it.
    pub fn meet(&mut self, place: &mut Place) -> Result<Duration> {
        let [a, b] = &mut self.peers;
        let begin = now();
        a.meet(place, b)?;
        Ok(begin.elapsed())
    }

    /// The load: transport data of the session.
    pub fn flow(&self, place: &Place, size: usize) -> Flows {
        Flows::with_indices(1, size, place.relay_mac, |_| self.index)
    }
}
