//! Relayed data that userspace has to do with: what the XDP program passes on to be forwarded here, and what is too big
//! for some hop.

use relay_ebpf::event::{Event, TOO_BIG_QUOTE};
use tracing::debug;

use super::Engine;
use crate::{
    clock,
    handshake::Datagram,
    maps::Traffic,
    members::MemberId,
    path_mtu::TooBig,
    slow_path::{Refusal, forward, receiver_index},
    sockets::Received,
    totals::MemberTraffic,
};

/// Bytes of an IP header without options, and of the UDP header after it.
const IPV4_UDP: u32 = 28;
const IPV6_UDP: u32 = 48;

impl Engine {
    pub(super) async fn handle_received(&mut self, received: Received) {
        match received {
            Received::Data(datagram) => self.forward(datagram),
            Received::Spoilt => self.counts.data_bad_checksum += 1,
            Received::TooBig(too_big) => self.router_said(&too_big).await,
        }
    }

    fn forward(&mut self, received: Datagram) {
        let session =
            receiver_index(&received.message).and_then(|index| self.tracker.session_by_index(index));
        let (datagram, from, to) = match forward(received, session) {
            Ok((datagram, from, to)) => (datagram, from.member, to.member),
            Err(refusal) => {
                let count = match refusal {
                    Refusal::NoSession => &mut self.counts.data_no_session,
                    Refusal::WrongSource => &mut self.counts.data_wrong_source,
                    Refusal::TtlExceeded => &mut self.counts.data_ttl_exceeded,
                };
                *count += 1;
                return;
            }
        };
        let rates = [from, to].map(|member| self.rates.id(member));
        if !self.maps.within_rates(clock::now(), rates, datagram.message.len()) {
            self.counts.data_over_rate_limit += 1;
            return;
        }
        if let Err(error) = self.sockets.send(&datagram) {
            self.counts.send_errors += 1;
            debug!(to = %datagram.remote, %error, "relayed data could not be sent");
            return;
        }
        self.counts.data_packets += 1;
        let traffic = Traffic { packets: 1, bytes: datagram.message.len() as u64 };
        self.account(from, to, traffic);
    }

    /// Adds to the members' totals what no live session's counters hold.
    pub(super) fn account(&mut self, from: Option<MemberId>, to: Option<MemberId>, traffic: Traffic) {
        if traffic == Traffic::default() {
            return;
        }
        if let Some(id) = from {
            self.maps.totals.add(id, MemberTraffic { sent: traffic, ..MemberTraffic::default() });
        }
        if let Some(id) = to {
            self.maps.totals.add(id, MemberTraffic { received: traffic, ..MemberTraffic::default() });
        }
    }

    /// A router on the way from the relay to a host has refused a packet.
    async fn router_said(&mut self, too_big: &TooBig) {
        let session = self.tracker.session_by_index(too_big.receiver_index()).copied();
        let believed = session.filter(|_| too_big.is_plausible());
        let Some(notice) = believed.and_then(|session| too_big.translate(&session, self.config.relay.port))
        else {
            self.counts.too_big_ignored += 1;
            return;
        };
        // The kernel has taken note of the narrower path: so must the next hop.
        let flow = crate::next_hops::Flow { local: too_big.local, remote: too_big.remote.ip() };
        self.next_hops.attest(flow, too_big.mtu);
        self.refresh_routes(&[flow]).await;
        self.notify(&notice);
    }

    /// The XDP program had a packet that is larger than the next hop takes.
    pub(super) fn program_said(&mut self, event: &Event) {
        let message = &event.message[..TOO_BIG_QUOTE];
        let mut too_big = TooBig {
            mtu: 0,
            packet_len: 0,
            local: event.local.into(),
            remote: event.source.into(),
            message: message.to_vec(),
        };
        let Some(&session) = self.tracker.session_by_index(too_big.receiver_index()) else { return };
        let Some((_, to)) = session.sides(too_big.receiver_index()) else { return };
        let Some(mtu) = self.next_hops.mtu(to.flow()) else { return };
        too_big.mtu = mtu;
        too_big.packet_len =
            u32::from(event.message_len) + if to.endpoint.is_ipv4() { IPV4_UDP } else { IPV6_UDP };
        (too_big.local, too_big.remote) = (to.local, to.endpoint);
        if let Some(notice) = too_big.translate(&session, self.config.relay.port) {
            self.notify(&notice);
        }
    }

    fn notify(&mut self, notice: &crate::path_mtu::Notice) {
        match self.sockets.notify(notice) {
            Ok(()) => self.counts.too_big_sent += 1,
            Err(error) => {
                self.counts.send_errors += 1;
                debug!(to = %notice.remote, %error, "a host could not be told that its packets are too big");
            }
        }
    }
}
