//! What stops which attack, and which change of the source switches it off. `cargo xtask attack --without` builds a copy
//! with the change: what runs as a relay has no switches for this.

/// A defence.
pub struct Defence {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The attacks that succeed without it.
    pub rows: &'static [&'static str],
    /// What switches it off. Several, where one layer does what another one has left out.
    pub edits: &'static [Edit],
}

/// A change of one place in the source.
pub struct Edit {
    /// The file, as the workspace's root sees it.
    pub file: &'static str,
    /// What stands there once.
    pub text: &'static str,
    /// What is to stand there instead.
    pub replacement: &'static str,
}

impl Edit {
    /// The text of the file, changed.
    ///
    /// # Errors
    /// If what is to be changed does not stand there exactly once.
    pub fn apply(&self, source: &str) -> Result<String, String> {
        match source.matches(self.text).count() {
            1 => Ok(source.replace(self.text, self.replacement)),
            found => Err(format!("{} has this {found} times, not once: {}", self.file, self.text)),
        }
    }
}

const DECIDE: &str = "relay-ebpf/src/decide.rs";
const ANSWERS: &str = "relay-user/src/handshake/answers.rs";
const INITIATIONS: &str = "relay-user/src/handshake/initiations.rs";
const TURN: &str = "relay-ebpf/src/turn.rs";
const ADMISSION: &str = "relay-user/src/admission.rs";

/// All of them.
pub const DEFENCES: &[Defence] = &[
    Defence {
        name: "first-pending-wins",
        what: "the first pending entry for an index is never overwritten",
        rows: &["replay-from-elsewhere"],
        edits: &[Edit {
            file: INITIATIONS,
            text: "Some(_) => return Err(Outcome::IndexTaken),",
            replacement: "Some(_) => {
                self.pending.remove_unless(|known| known.source == source);
                self.directory.route(source, recipient)?
            }",
        }],
    },
    Defence {
        name: "paced-initiations",
        what: "a member is sent so many initiations of another member and no more",
        rows: &["replay-from-its-source"],
        edits: &[Edit {
            file: ADMISSION,
            text: "initiations: 50,",
            replacement: "initiations: 1_000_000_000,",
        }],
    },
    Defence {
        name: "paced-strangers",
        what: "a member is sent so many initiations of unknown sources and no more",
        rows: &["stranger-initiations"],
        edits: &[Edit {
            file: ADMISSION,
            text: "unknown_initiations: 5 }",
            replacement: "unknown_initiations: 1_000_000_000 }",
        }],
    },
    Defence {
        name: "address-proof",
        what: "nothing is sent on for an unknown source until it has proven its address with a cookie",
        rows: &["forged-initiations"],
        edits: &[Edit {
            file: INITIATIONS,
            text: "let trusted = origin != Origin::Stranger ||",
            replacement: "let trusted = true ||",
        }],
    },
    Defence {
        name: "responder-endpoint",
        what: "a response is taken only from where the initiation was sent to, by the program and by userspace",
        rows: &["forged-responses"],
        edits: &[
            Edit {
                file: DECIDE,
                text: "Some(responder) if *responder != arrival.source =>",
                replacement: "Some(responder) if false && *responder != arrival.source =>",
            },
            Edit {
                file: ANSWERS,
                text: "if datagram.remote != handshake.responder {",
                replacement: "if false {",
            },
        ],
    },
    Defence {
        name: "later-response-counts",
        what: "a later response takes the place of an earlier one whose session was not used yet",
        rows: &["forged-response-first"],
        edits: &[Edit {
            file: ANSWERS,
            text: "(Some(old), None) if !old.confirmed &&",
            replacement: "(Some(old), None) if false && !old.confirmed &&",
        }],
    },
    Defence {
        name: "cookie-endpoint",
        what: "a cookie reply is taken only from the other side of its handshake, by the program and by userspace",
        rows: &["forged-cookies"],
        edits: &[
            Edit { file: DECIDE, text: "if !expected {", replacement: "if false && !expected {" },
            Edit { file: ANSWERS, text: "&& handshake.responder == datagram.remote", replacement: "" },
            Edit { file: ANSWERS, text: "if from.endpoint != datagram.remote {", replacement: "if false {" },
        ],
    },
    Defence {
        name: "three-answers",
        what: "at most three answers are sent back for one initiation",
        rows: &["many-answers"],
        edits: &[Edit { file: ANSWERS, text: "handshake.answers >= ANSWERS ||", replacement: "" }],
    },
    Defence {
        name: "index-taken",
        what: "an index of a live session is never taken over",
        rows: &["chosen-indices"],
        edits: &[Edit {
            file: ANSWERS,
            text: "_ => return Err(Outcome::IndexTaken),\n        };",
            replacement: "(_, of_responder) => of_responder.map(|old| old.session.responder.index),\n        };",
        }],
    },
    Defence {
        name: "proof-binds-its-session",
        what: "a session's proof says nothing of where a member is",
        rows: &["spoofed-move"],
        edits: &[Edit {
            file: ANSWERS,
            text: "self.directory.met(handshake.source, initiator);",
            replacement: "self.directory.met(handshake.source, initiator);
            self.directory.learn(initiator, Some(handshake.source), None);",
        }],
    },
    Defence {
        name: "data-source",
        what: "the program takes data only from its session's address and port",
        rows: &["live-index"],
        edits: &[Edit {
            file: "relay-ebpf/src/forward.rs",
            text: "session.source_port_be == packet.udp.source_port_be",
            replacement: "true || session.source_port_be == packet.udp.source_port_be",
        }],
    },
    Defence {
        name: "data-source-slow",
        what: "so does userspace, with what the program passes on",
        rows: &["live-index"],
        edits: &[Edit {
            file: "relay-user/src/slow_path.rs",
            text: "if (received.remote, received.local) != (from.endpoint, from.local) {",
            replacement: "if false {",
        }],
    },
    Defence {
        name: "whole-index",
        what: "all 32 bits of an index must be a session's",
        rows: &["index-guessing"],
        edits: &[Edit {
            file: "relay-ebpf/src/sessions.rs",
            text: "    found == index\n",
            replacement: "    found != 0 && index != 0\n",
        }],
    },
    Defence {
        name: "too-big-addresses",
        what: "\"packet too big\" must quote the addresses of the session that it names",
        rows: &["forged-too-big"],
        edits: &[Edit {
            file: "relay-user/src/path_mtu.rs",
            text: "if (to.endpoint, to.local) != (self.remote, self.local) {",
            replacement: "if false {",
        }],
    },
    Defence {
        name: "no-transit",
        what: "what comes from another relay goes only to members relayed here",
        rows: &["relay-loop"],
        edits: &[Edit {
            file: "relay-user/src/handshake/directory.rs",
            text: "Origin::Relay if !self.is_relayed_here(recipient) =>",
            replacement: "Origin::Relay if false && !self.is_relayed_here(recipient) =>",
        }],
    },
    Defence {
        name: "agreeing-lengths",
        what: "a packet's lengths must agree before it is forwarded",
        rows: &["malformed-ipv4", "malformed-ipv6"],
        edits: &[Edit {
            file: "relay-ebpf/src/straight.rs",
            text: "|| packet_len != ip.packet_len()\n",
            replacement: "\n",
        }],
    },
    Defence {
        name: "admission",
        what: "what comes from unknown sources has a budget, for each and for all",
        rows: &["initiation-flood", "initiation-flood-many", "data-flood", "data-flood-many"],
        edits: &[Edit {
            file: ADMISSION,
            text: "source: 500, unknown: 2_000 }",
            replacement: "source: 1_000_000_000, unknown: 1_000_000_000 }",
        }],
    },
    Defence {
        name: "half-the-ring",
        what: "half of the ring buffer is kept for known sources",
        rows: &["ring-flood"],
        edits: &[Edit {
            file: "relay-ebpf/src/up.rs",
            text: "if !arrival.known && is_scarce() {",
            replacement: "if false && !arrival.known && is_scarce() {",
        }],
    },
    Defence {
        name: "channel-source",
        what: "a TURN channel's data is taken only from its client and its peer: the program finds it by them, and compares them",
        rows: &["turn-stolen-channel"],
        edits: &[
            Edit {
                file: "relay-ebpf/src/tables.rs",
                text: "let ports = (remote_port as u64) | (local_port as u64) << 16",
                replacement: "let (remote, _) = (Address([0; 2]), remote_port);
    let ports = (local_port as u64) << 16",
            },
            Edit {
                file: TURN,
                text: "        && channel.source_port_be == udp.source_port_be\n",
                replacement: "",
            },
            Edit { file: TURN, text: "        && channel.source == ip.source()\n", replacement: "" },
        ],
    },
    Defence {
        name: "special-addresses",
        what: "what is not on the public Internet is no TURN peer",
        rows: &["turn-private-peers"],
        edits: &[Edit {
            file: "relay-user/src/turn/peers.rs",
            text: "|| !among(&self.special) &&",
            replacement: "||",
        }],
    },
];
