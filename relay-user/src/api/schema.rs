//! How the values that are text in JSON look, for the OpenAPI document.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

use crate::model::{Name, Role};

fn text(description: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description)).examples([example])
}

/// Defines types that stand for a text in the document.
macro_rules! texts {
    ($($type:ident $description:literal $example:literal $pattern:literal;)*) => {$(
        #[doc = $description]
        pub struct $type;

        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                text($description, $example).pattern(Some($pattern)).into()
            }
        }

        impl ToSchema for $type {}
    )*};
}

texts! {
    PublicKey "A WireGuard public key, as `wg pubkey` prints it." "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="
        "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$";
    Credential "An id and its secret." "web.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$";
    Realm "A realm of TURN servers." "turn.example.org" r#"^[^"\\\x00-\x1f\x7f-\x9f]{1,127}$"#;
    TurnKey "MD5 of `name:realm:password`, in hexadecimal digits: `wgrelay turn-key` prints it."
        "8493fbc53ba582fb4c044c456bdc40eb" "^[0-9a-f]{32}$";
    Ipv4 "An IPv4 address." "10.10.0.7" r"^([0-9]{1,3}\.){3}[0-9]{1,3}$";
    Ipv6 "An IPv6 address." "fd00:10::7" r"^[0-9a-fA-F:.]{2,45}$";
    Address "An IPv4 or IPv6 address." "198.51.100.1" r"^[0-9a-fA-F:.]{2,45}$";
    Ipv4Prefix "An IPv4 prefix; no bits are set behind its length." "10.10.0.0/16" r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$";
    Ipv6Prefix "An IPv6 prefix; no bits are set behind its length." "fd00:10::/64" r"^[0-9a-fA-F:.]{2,45}/[0-9]{1,3}$";
    Prefix "An IPv4 or IPv6 prefix." "192.168.7.0/24" r"^[0-9a-fA-F:.]{2,45}/[0-9]{1,3}$";
    ETag "What names a record as it is." "\"17\"" r#"^"[0-9a-f]+"$"#;
    Endpoint "An address and a UDP port." "198.51.100.1:51820" r"^([0-9.]{7,15}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}$";
}

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        let description = "1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit.";
        text(description, "host-a").pattern(Some("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")).into()
    }
}

impl ToSchema for Name {}

impl PartialSchema for Role {
    fn schema() -> RefOr<Schema> {
        let description = "What a token allows: `admin` everything, `read` to see everything but secrets, `enrol` to make \
                           enrolment keys.";
        text(description, "read").enum_values(Some(["admin", "read", "enrol"])).into()
    }
}

impl ToSchema for Role {}
