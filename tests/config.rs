//! The configuration file: accepted values, the error of each mistake, `print` and `explain`, and
//! the files that it names.
#![cfg(feature = "server")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use headcount::auth::CredentialError;
use headcount::config::{
    Anonymous, Config, InsecurePlaintext, SecretText, Shards, TenByteLayout, dev_key,
};
use headcount::limits::Limits;
use headcount::policy::{
    Deliver, Durability, Heartbeat, OnTimeout, Policy, SlowConsumer, WebhookEvent,
};

/// The example of the design, all of it.
const EXAMPLE: &str = r#"
[cores]
shards = 2
pin = [0, 1]
spin_us = 0
[listen]
http = "127.0.0.1:7400"
sync_tcp = "127.0.0.1:7401"
admin = "127.0.0.1:7402"
[data]
dir = "headcount-data"
[auth]
anonymous = false
anonymous_app = "demo"
[[auth.key]]
name = "demo.kid_main"
secret = "sk_main_secret"
capability = { "*" = ["*"] }
[[namespace]]
match = "chat:*"
history_messages = 1000
history_age_s = 86400
durability = "disk"
presence_ttl_ms = 30000
presence_grace_ms = 5000
presence_interval_ms = 0
"#;

fn read(text: &str) -> Result<Config, String> {
    Config::from_toml(text, Path::new("headcount.toml")).map_err(|error| error.to_string())
}

fn config(text: &str) -> Config {
    read(text).unwrap()
}

/// An empty directory of its own for each test.
fn directory(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys")
}

#[test]
fn an_empty_file_is_the_defaults() {
    let empty = config("");
    assert_eq!(empty.limits, Limits::default());
    assert_eq!(empty.cores.shards(), Shards::Auto);
    assert_eq!(empty.data_dir(), Some(Path::new("headcount-data")));
    assert_eq!(empty.listen.http.to_string(), "127.0.0.1:7400");
    assert_eq!(empty.sync.ten_byte_layout, TenByteLayout::V06);
    assert!(!empty.debug.echo);
    assert_eq!(**empty.policies().for_channel("any"), Policy::default());
    assert!(empty.keyring(None).unwrap().keys().is_empty());
    assert_eq!(empty.print().lines().count(), Config::default().print().lines().count());
}

#[test]
fn the_example_of_the_design_is_accepted() {
    let config = config(EXAMPLE);
    assert_eq!(config.cores.shards(), Shards::Count(2));
    let policies = config.policies();
    let chat = policies.for_channel("chat:a");
    assert_eq!((chat.history_messages, chat.durability), (1000, Durability::Disk));
    assert_eq!(policies.for_channel("game").history_messages, 100);
    let ring = config.keyring(None).unwrap();
    assert!(ring.verify_key("demo.kid_main:sk_main_secret").is_ok());
}

#[test]
fn every_key_reaches_its_value() {
    let config = config(
        r#"
        [sync]
        ten_byte_layout = "0.4"
        [debug]
        echo = true
        [data]
        dir = ""
        [limits]
        state_bytes_max = 100
        sweep_ms = 50
        [[namespace]]
        match = "a*"
        presence_ttl_ms = 100
        presence_grace_ms = 1
        presence_interval_ms = 2
        presence_heartbeat = "update"
        presence_snapshot_on_join = false
        history_messages = 3
        history_age_s = 4
        history_bytes = 5
        durability = "none"
        deliver = "before_durable"
        slow_consumer = "close"
        presence_history_s = 9
        graph_max_peers = 6
        peer_metadata_max_bytes = 7
        deny_ttl_ms = 800
        occupancy_interval_ms = 10
        webhook_events = ["presence", "messages"]
        [webhooks]
        url = "http://127.0.0.1:1/x"
        secret = "s"
        vacated_delay_ms = 11
        "#,
    );
    assert_eq!(config.sync.ten_byte_layout, TenByteLayout::V04);
    assert!(config.debug.echo);
    assert_eq!(config.data_dir(), None);
    let limits = Limits { state_bytes_max: 100, sweep_ms: 50, ..Limits::default() };
    assert_eq!(config.limits, limits);
    let expected = Policy {
        presence_ttl_ms: 100,
        presence_grace_ms: 1,
        presence_interval_ms: 2,
        heartbeat: Heartbeat::Update,
        snapshot_on_join: false,
        history_messages: 3,
        history_age_s: 4,
        history_bytes: 5,
        durability: Durability::None,
        deliver: Deliver::BeforeDurable,
        slow_consumer: SlowConsumer::Close,
        presence_history_s: 9,
        presence_log: None,
        graph_max_peers: 6,
        peer_metadata_max_bytes: 7,
        deny_ttl_ms: 800,
        occupancy_interval_ms: 10,
        webhook_events: vec![WebhookEvent::Presence, WebhookEvent::Messages],
    };
    assert_eq!(config.webhooks.vacated_delay_ms, 11);
    let expected = expected.with_presence_log(Durability::Memory);
    assert!(expected.presence_log.is_some());
    assert_eq!(**config.policies().for_channel("abc"), expected);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (text, expected) in [
        (
            "[listen]\n\nhtp = \"127.0.0.1:1\"",
            "config: unknown key `listen.htp` in headcount.toml line 3: \
             did you mean `listen.http`?",
        ),
        (
            "[listn]\nhttp = \"127.0.0.1:1\"",
            "config: unknown key `listn` in headcount.toml line 1: did you mean `listen`?",
        ),
        (
            "[[namespace]]\nmatch = \"a\"\n[[namespace]]\nmatch = \"b\"\nhistroy_bytes = 1",
            "config: unknown key `namespace.histroy_bytes` in headcount.toml line 5: \
             did you mean `namespace.history_bytes`?",
        ),
        (
            "[auth]\nkey = [{ name = \"a.b\", secert = \"s\" }]",
            "config: unknown key `auth.key.secert` in headcount.toml line 2: \
             did you mean `auth.key.secret`?",
        ),
        (
            "sweep_ms = 3",
            "config: unknown key `sweep_ms` in headcount.toml line 1: \
             did you mean `limits.sweep_ms`?",
        ),
        (
            "debug.zzzzzz.deeper = 3",
            "config: unknown key `debug.zzzzzz` in headcount.toml line 1: known keys: demo, echo",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), expected);
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_line() {
    for (text, start) in [
        ("[cores]\nshards = \"many\"", "config: `cores.shards` in headcount.toml line 2: "),
        ("[cores]\nshards = -1", "config: `cores.shards` in headcount.toml line 2: "),
        ("[limits]\n\nidle_ms = \"x\"", "config: `limits.idle_ms` in headcount.toml line 3: "),
        ("[listen]\nhttp = \"localhost\"", "config: `listen.http` in headcount.toml line 2: "),
        (
            "[auth]\n[[auth.key]]\nname = \"a.b\"\ncapability = { \"*\" = [\"fly\"] }",
            "config: `auth.key.capability",
        ),
        (
            "[[auth.key]]\nname = \"a.b\"\nsecret = \"s\"\ncapability = { \"a*\" = [\"*\"] }",
            "config: `auth.key.capability",
        ),
        ("[[namespace]]\nmatch = \"a*b\"", "config: `namespace.match` in headcount.toml line 2: "),
        ("[[namespace]]\ndurability = \"disk\"", "config: `namespace` in headcount.toml line 1: "),
        ("[[auth.key]]\nsecret = \"s\"", "config: `auth.key` in headcount.toml line 1: "),
        (
            "[[auth.key]]\nname = \"a.b\"\n[auth.key.capability]\na = [\"fly\"]",
            "config: `auth.key.capability.a` in headcount.toml line 4: ",
        ),
        ("[namespace]\nmatch = \"a\"", "config: `namespace` in headcount.toml line 1: "),
        ("[cores\nshards = 1", "config: syntax in headcount.toml line 1: "),
        ("[cores]\nshards = 1\nshards = 2", "config: syntax in headcount.toml line 3: "),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(start), "{text}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_what_to_do() {
    for (text, expected) in [
        (
            "[cores]\nshards = 0",
            "`cores.shards` in headcount.toml line 2: 0 is out of range, use 1 to 128",
        ),
        ("[cores]\nshards = 129", "use 1 to 128"),
        ("[cores]\nshards = 2\npin = [0]", "line 3: 1 CPUs are listed for 2 shards"),
        ("[cores]\npin = [1, 1]", "listed twice"),
        ("[cores]\npin = []", "list 1 to 128"),
        ("[cores]\npin = [4096]", "there is no CPU 4096"),
        ("[listen]\nadmin = \"127.0.0.1:7400\"", "is also `listen.http`"),
        ("[listen]\nproxy_protocol = [\"http\"]\nproxy_trusted = []", "line 3: it is empty, but"),
        ("[listen]\nproxy_protocol = [\"admin\"]", "unknown variant `admin`, expected `http` or"),
        ("[listen]\nproxy_trusted = [\"10.0.0/8\"]", "`10.0.0/8` is neither an IP address nor a"),
        ("[limits]\nsweep_ms = 0", "0 is out of range, use 1 to 60000"),
        ("[limits]\nrequest_head_bytes_max = 4095", "4095 is out of range, use 4096 to 1048576"),
        ("[limits]\nidle_ms = 40000", "above `ping_after_ms`"),
        ("[limits]\nstate_bytes_max = 9000000", "must fit into `presence_set_bytes_max`"),
        ("[[namespace]]\nmatch = \"a\"\npresence_ttl_ms = 99", "line 3: 99 is out of range"),
        ("[[namespace]]\nmatch = \"*\"\n[[namespace]]\nmatch = \"a\"", "line 4: `a` is never used"),
        ("[data]\ndir = \"\"\n[[namespace]]\nmatch = \"a\"\ndurability = \"disk\"", "memory only"),
        ("[auth]\nanonymous_app = \"a.b\"", "`a.b` is not an app"),
        ("[[auth.key]]\nname = \"demo\"\nsecret = \"s\"", "`demo` is not `app.keyId`"),
        ("[[auth.key]]\nname = \"a.b\"\nsecret = \"\"", "line 3: it is empty"),
        (
            "[[auth.key]]\nname = \"a.b\"\nsecret = \"********\"",
            "line 3: it is the placeholder of a redacted secret",
        ),
        ("[[auth.key]]\nname = \"a.b\"", "exactly one of `secret`"),
        ("[[auth.key]]\nname = \"a.b\"\nsecret = \"s\"\njwks_file = \"f\"", "exactly one of"),
        ("[[auth.key]]\nname = \"a.b\"\npublic_key_file = \"f\"", "use \"RS256\" or \"ES256\""),
        ("[[auth.key]]\nname = \"a.b\"\nsecret = \"s\"\nalgorithm = \"RS256\"", "is for HS256"),
        (
            "[auth]\nkey=[{ name = \"a.b\", secret = \"s\" }, { name = \"a.b\", secret = \"t\" }]",
            "line 2: `a.b` is already the name of another key",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{text}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn with_pins_alone_there_is_one_shard_for_each() {
    assert_eq!(config("[cores]\npin = [3, 5]").cores.shards(), Shards::Count(2));
}

#[test]
fn anonymous_sessions_are_a_default_of_loopback_without_keys() {
    let key = "[[auth.key]]\nname = \"shop.k\"\nsecret = \"s\"\n";
    let open = "[listen]\nhttp = \"0.0.0.0:7400\"\n";
    for (text, expected, app) in [
        (String::new(), Anonymous::Allowed, "demo"),
        (key.to_owned(), Anonymous::Refused, "shop"),
        (open.to_owned(), Anonymous::Refused, "demo"),
        (format!("[auth]\nanonymous = true\n{key}"), Anonymous::Allowed, "shop"),
        ("[auth]\nanonymous = false\nanonymous_app = \"x\"".to_owned(), Anonymous::Refused, "x"),
        ("[listen]\nhttp = \"[::1]:7400\"".to_owned(), Anonymous::Allowed, "demo"),
        ("[listen]\nhttp = \"[::ffff:127.0.0.1]:7400\"".to_owned(), Anonymous::Allowed, "demo"),
    ] {
        let config = config(&text);
        assert_eq!((config.anonymous().0, config.anonymous_app()), (expected, app), "{text}");
    }
}

#[test]
fn nothing_but_loopback_is_served_without_consent_and_keys() {
    let key = "[[auth.key]]\nname = \"shop.k\"\nsecret = \"s\"\n";
    let check = |text: &str, plaintext| {
        config(text).check_exposure(plaintext).map_err(|error| error.to_string())
    };
    use InsecurePlaintext::{Allowed, Refused};
    assert_eq!(check("", Refused), Ok(()));
    for listen in ["http = \"0.0.0.0:1\"", "sync_tcp = \"[::]:1\"", "admin = \"10.0.0.1:1\""] {
        let open = format!("[listen]\n{listen}\n");
        let with_key = format!("{open}{key}");
        assert!(check(&with_key, Refused).unwrap_err().contains("--insecure-plaintext"));
        assert!(check(&open, Allowed).unwrap_err().contains("[[auth.key]]"));
        assert_eq!(check(&with_key, Allowed), Ok(()));
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let keys = r#"
        [[auth.key]]
        name = "demo.issuer"
        jwks_file = "jwks.json"
        issuer = "https://id"
        capability = { "chat:*" = ["subscribe", "presence"], "a" = ["*"] }
    "#;
    let odd = "[data]\ndir = \"a \\\"b\\\"\\nc\"\n[[namespace]]\nmatch = \"q\\\"*\"";
    let admission = r#"
        [auth]
        identity_claim = "about"
        [admission]
        webhook = "http://127.0.0.1:9000/admit"
        secret = "sk_main_secret"
        kinds = ["connect", "publish"]
        timeout_ms = 500
        on_timeout = "allow"
        in_flight_max = 3
        cache_entries_max = 4
        breaker_failures = 5
        breaker_ms = 6
        [webhooks]
        url = "http://127.0.0.1:9000/events"
        secret = "sk_main_secret"
        batch_events_max = 7
        [[namespace]]
        match = "told:*"
        webhook_events = ["occupancy"]
        [[auth.key]]
        name = "demo.k"
        secret = "sk_main_secret"
        identity_metadata = { role = "editor", levels = [1, 2] }
    "#;
    for text in
        ["", EXAMPLE, keys, admission, odd, "[[namespace]]\nmatch = \"*\"\nhistory_bytes = 9"]
    {
        let first = config(text);
        let printed = first.print();
        assert!(!printed.contains("sk_main_secret"));
        let filled_in = printed.replace("********", "sk_main_secret");
        let second = read(&filled_in).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(second.limits, first.limits);
        assert_eq!(second.data_dir(), first.data_dir());
        assert_eq!(second.anonymous().0, first.anonymous().0);
        assert_eq!(second.anonymous_app(), first.anonymous_app());
        assert_eq!(second.auth.identity_claim, first.auth.identity_claim);
        assert_eq!(second.admission, first.admission);
        assert_eq!(second.webhooks, first.webhooks);
        for (again, key) in second.auth.key.iter().zip(&first.auth.key) {
            assert_eq!((&again.name, &again.capability), (&key.name, &key.capability));
            assert_eq!(again.identity_metadata, key.identity_metadata);
        }
        for channel in ["chat:a", "game", "q\"x", "told:a"] {
            assert_eq!(
                second.policies().for_channel(channel),
                first.policies().for_channel(channel)
            );
        }
    }
}

#[test]
fn print_shows_every_key_and_no_secret() {
    let printed = config(EXAMPLE).print();
    for line in [
        "shards = 2",
        "pin = [0, 1]",
        "http = \"127.0.0.1:7400\"",
        "anonymous = false",
        "secret = \"********\"",
        "capability = { \"*\" = [\"*\"] }",
        "# jwks_file is not set: no JWK set",
        "ten_byte_layout = \"0.6\"",
        "mailbox_envelopes_max = 8192",
        "# demo is off by default: keys are configured",
        "demo = false",
        "echo = false",
        "match = \"chat:*\"",
        "durability = \"disk\"",
        "match = \"*\"",
        "presence_heartbeat = \"transport\"",
        "slow_consumer = \"gap\"",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
    assert!(!format!("{:?}", config(EXAMPLE)).contains("sk_main_secret"));
}

#[test]
fn the_admission_hook_has_its_keys_and_what_it_lacks_is_named() {
    let admission = config("").admission;
    assert_eq!((admission.timeout_ms, admission.on_timeout), (10_000, OnTimeout::Deny));
    assert_eq!(admission.kinds.len(), 4);
    let webhook = "webhook = \"http://x/\"\nsecret = \"s\"";
    assert!(read(&format!("[admission]\n{webhook}")).is_ok());
    for (keys, named) in [
        ("webhook = \"http://x/\"", "`secret`"),
        ("webhook = \"https://x/\"\nsecret = \"s\"", "http://HOST"),
        ("secret = \"\"", "it is empty"),
        ("kinds = [\"edge\"]", "edge"),
        ("on_timeout = \"maybe\"", "maybe"),
        ("timeout_ms = 60001", "60000"),
        ("in_flight_max = 0", "1 to 1024"),
        ("weebhook = \"http://x/\"", "webhook"),
    ] {
        let error = read(&format!("[admission]\n{keys}")).unwrap_err();
        assert!(error.contains(named), "{keys}: {error}");
    }
    for (keys, named) in [
        ("[webhooks]\nurl = \"http://x/\"", "`secret`"),
        ("[webhooks]\nspool_events_max = 0", "1 to"),
        ("[[namespace]]\nmatch = \"a\"\nwebhook_events = [\"occupancy\"]", "[webhooks]"),
        ("[[namespace]]\nmatch = \"a\"\nwebhook_events = [\"joins\"]", "joins"),
    ] {
        let error = read(keys).unwrap_err();
        assert!(error.contains(named), "{keys}: {error}");
    }
    let long = "x".repeat(4096);
    let key = format!(
        "[[auth.key]]\nname = \"a.b\"\nsecret = \"s\"\nidentity_metadata = {{ a = {long:?} }}"
    );
    assert!(read(&key).unwrap_err().contains("at most 4096"));
}

#[test]
fn explain_names_the_rule_and_the_source_of_each_value() {
    let config = config(EXAMPLE);
    let chat = config.explain("chat:a");
    assert!(chat.contains("namespace 1 of headcount.toml (match = \"chat:*\")"), "{chat}");
    let source = |text: &str, start: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
        line.split_once("  ").map(|_| line.trim_start()[start.len()..].trim().to_owned()).unwrap()
    };
    assert_eq!(source(&chat, "history_messages = 1000"), "namespace 1");
    assert_eq!(source(&chat, "history_bytes = 1048576"), "default");
    let game = config.explain("game");
    assert!(game.contains("no namespace matches"), "{game}");
    assert_eq!(source(&game, "history_messages = 100"), "default");
}

#[test]
fn key_files_are_found_beside_the_configuration() {
    let dir = directory("key_files");
    for file in ["rsa_public.pem", "ec_public.pem", "jwks.json"] {
        fs::copy(keys().join(file), dir.join(file)).unwrap();
    }
    let path = dir.join("headcount.toml");
    let text = r#"
        [auth]
        key = [
            { name = "a.rs", algorithm = "RS256", public_key_file = "rsa_public.pem" },
            { name = "a.es", algorithm = "ES256", public_key_file = "ec_public.pem" },
            { name = "a.issuer", jwks_file = "jwks.json" },
        ]
    "#;
    fs::write(&path, text).unwrap();
    let ring = Config::load(&path).unwrap().keyring(None).unwrap();
    assert_eq!(ring.keys().len(), 3);
    assert_eq!(ring.verify_key("a.rs:").unwrap_err(), CredentialError::Signature);
}

#[test]
fn broken_key_files_are_named() {
    let dir = directory("broken_key_files");
    let path = dir.join("headcount.toml");
    fs::write(dir.join("not.pem"), "not a key").unwrap();
    for (file, expected) in [
        ("gone.pem", "gone.pem: No such file"),
        ("not.pem", "not.pem): expected one public key in PEM"),
    ] {
        let entry = format!("name = \"a.rs\"\nalgorithm = \"RS256\"\npublic_key_file = \"{file}\"");
        fs::write(&path, format!("[[auth.key]]\n{entry}")).unwrap();
        let error = Config::load(&path).unwrap().keyring(None).unwrap_err().to_string();
        assert!(error.starts_with("config: auth.key `a.rs`"), "{error}");
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    let missing = Config::load(&dir.join("missing.toml")).unwrap_err().to_string();
    assert!(missing.contains("missing.toml: No such file"), "{missing}");
}

#[test]
fn the_development_key_is_made_once_and_kept_private() {
    let dir = directory("dev_key").join("new/data");
    assert!(dev_key::load_kept(&dir).unwrap().is_none());
    assert!(!dir.exists(), "looking for a key makes nothing");
    let first = dev_key::load_or_create(&dir).unwrap();
    assert!(first.text.starts_with("demo.kid_dev:sk_"), "{}", first.text);
    assert_eq!(first.text.len(), "demo.kid_dev:sk_".len() + 32);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(dev_key::FILE_NAME))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft is left behind");

    let again = dev_key::load_or_create(&dir).unwrap();
    assert_eq!(again.text, first.text);
    assert_eq!(dev_key::load_kept(&dir).unwrap().unwrap().text, first.text);
    assert_ne!(dev_key::generate().unwrap().text, first.text);
    let ring = config("").keyring(Some(again.key)).unwrap();
    assert_eq!(ring.verify_key(&first.text).unwrap().name(), "demo.kid_dev");
}

#[test]
fn the_development_key_serves_only_while_no_key_is_configured() {
    let dir = directory("dev_key_choice");
    let data = format!("[data]\ndir = '{}'\n", dir.display());
    let kept = || config(&data).development_key().unwrap().unwrap().text;
    assert_eq!(kept(), kept());
    let memory = || config("[data]\ndir = \"\"").development_key().unwrap().unwrap().text;
    assert_ne!(memory(), memory());
    let key = "[[auth.key]]\nname = \"a.b\"\nsecret = \"s\"";
    assert!(config(&format!("{data}{key}")).development_key().unwrap().is_none());
}

#[test]
fn a_development_key_that_others_can_read_is_refused() {
    let dir = directory("dev_key_open");
    dev_key::load_or_create(&dir).unwrap();
    let file = dir.join(dev_key::FILE_NAME);
    for mode in [0o644, 0o640, 0o604, 0o620] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let error = dev_key::load_or_create(&dir).err().unwrap().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_development_key_that_is_none_is_refused() {
    let dir = directory("dev_key_broken");
    let file = dir.join(dev_key::FILE_NAME);
    for content in ["", "demo.kid_dev", "nodot:secret", "demo.kid:"] {
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let error = dev_key::load_or_create(&dir).err().unwrap().to_string();
        assert!(error.contains("not a key") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let file = directory("dev_key_blocked").join("file");
    fs::write(&file, "").unwrap();
    let error = dev_key::load_or_create(&file.join("data")).err().unwrap().to_string();
    assert!(error.starts_with(&format!("data directory {}", file.join("data").display())));
    assert!(error.contains("set `data.dir`") && !error.contains('\n'), "{error}");
}

#[test]
fn a_secret_is_not_shown_by_debug() {
    let key = &config(EXAMPLE).auth.key[0];
    let secret: &Option<SecretText> = &key.secret;
    assert_eq!(format!("{secret:?}"), "Some(SecretText(..))");
}
