//! What a running server can take up from another configuration, and what it cannot.

use super::{Config, ConfigError};

impl ConfigError {
    /// With the tables that are read at start only, which may be why it does not fit.
    pub fn with_waiting(mut self, tables: &[&str]) -> Self {
        if !tables.is_empty() {
            let tables = tables.join("], [");
            self.why += &format!("; changes in [{tables}] need a restart");
        }
        self
    }
}

impl Config {
    /// Tables that differ in `new` and are read at start only.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let tables = [
            ("cores", self.cores != new.cores),
            ("listen", self.listen != new.listen),
            ("data", self.data != new.data),
            ("admission", self.admission != new.admission),
            ("webhooks", self.webhooks != new.webhooks),
            ("sync", self.sync != new.sync),
            ("documents", self.documents != new.documents),
            ("limits", self.limits != new.limits),
            ("debug", self.debug != new.debug),
        ];
        tables.into_iter().filter_map(|(table, differs)| differs.then_some(table)).collect()
    }

    /// Whether a running server can go on with this configuration after `old`.
    ///
    /// # Errors
    /// A key of which a server cannot take up another value while it runs.
    pub fn check_reload(&self, old: &Config) -> Result<(), ConfigError> {
        if self.auth.key.is_empty() && !old.auth.key.is_empty() {
            return Err(ConfigError::new(
                "config: `auth.key`",
                "no key is left, and only a restart makes a development key; add one",
            ));
        }
        let (policies, before) = (self.policies(), old.policies());
        policies.stored_elsewhere(&before).map_or(Ok(()), |pattern| {
            Err(ConfigError::new(
                format!("config: `namespace` for channels as in `{pattern}`"),
                "where messages and presence history are stored differs (durability, \
                 presence_history_s from or to 0), and only a restart can change that",
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::from_toml(text, Path::new("headcount.toml")).unwrap()
    }

    #[test]
    fn tables_that_are_read_at_start_only_are_named() {
        let old = config("[cores]\nshards = 1\n[limits]\nidle_ms = 70000");
        let new = config(
            "[cores]\nshards = 2\n[limits]\nidle_ms = 70000\n[admin]\nmetrics = \"open\"\n\
             [[auth.key]]\nname = \"a.b\"\nsecret = \"c\"",
        );
        assert_eq!(old.needs_restart(&new), ["cores"]);
        assert!(old.needs_restart(&old.clone()).is_empty());
    }

    #[test]
    fn where_messages_are_stored_stays_the_same() {
        const KEY: &str = "[[auth.key]]\nname = \"a.b\"\nsecret = \"c\"\n";
        for (old, new, named) in [
            ("[[namespace]]\nmatch = \"*\"\nhistory_messages = 1", "", None),
            ("", "[[namespace]]\nmatch = \"a\"\ndurability = \"disk\"", Some("`a`")),
            ("[[namespace]]\nmatch = \"a:*\"\ndurability = \"disk\"", "", Some("`a:*`")),
            (
                "[[namespace]]\nmatch = \"a*\"\ndurability = \"disk\"",
                "[[namespace]]\nmatch = \"ab*\"\ndurability = \"disk\"\n\
                 [[namespace]]\nmatch = \"a*\"\ndurability = \"disk\"\npresence_ttl_ms = 5000",
                None,
            ),
            (
                "[[namespace]]\nmatch = \"a*\"\ndurability = \"none\"",
                "[[namespace]]\nmatch = \"ab\"\ndurability = \"disk\"\n\
                 [[namespace]]\nmatch = \"a*\"\ndurability = \"none\"",
                Some("`ab`"),
            ),
            ("[[namespace]]\nmatch = \"a\"\npresence_history_s = 60", "", Some("`a`")),
            (
                "[[namespace]]\nmatch = \"a\"\npresence_history_s = 60",
                "[[namespace]]\nmatch = \"a\"\npresence_history_s = 70",
                None,
            ),
        ] {
            let with_key = |text: &str| config(&format!("{KEY}{text}"));
            let checked = with_key(new).check_reload(&with_key(old));
            let why = checked.err().map(|error| error.to_string());
            assert_eq!(why.is_some(), named.is_some(), "{old} to {new}: {why:?}");
            assert!(named.is_none_or(|named| why.unwrap().contains(named)), "{old} to {new}");
        }
        assert!(config("").check_reload(&config(KEY)).is_err(), "no key is left");
        assert!(config(KEY).check_reload(&config("")).is_ok());
    }
}
