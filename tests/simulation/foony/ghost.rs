//! The naive truth of messages: what was published, and what anybody was told of its serial.

use std::collections::BTreeMap;

use super::line::Received;

/// One publish of a client, however often it was sent.
#[derive(Debug)]
pub struct Publication {
    /// Number of the client in the run.
    pub author: usize,
    /// Which of its lives, each ended by a goodbye that leaves publishes unanswered.
    pub life: u32,
    pub channel: Place,
    pub ephemeral: bool,
    pub parts: Vec<String>,
    pub serial: Option<u64>,
    pub acked: bool,
    /// The store failed with it. A copy that an earlier connection has sent may be stored later.
    pub refused: bool,
    /// Times it went out.
    pub sent: u32,
}

/// App and channel.
pub type Place = (&'static str, &'static str);

/// Who published under which message id, where.
type Name = (Place, String, String);

/// Everything that is known of all logs.
#[derive(Debug, Default)]
pub struct Ghost {
    /// In the order in which they were made.
    pub publications: Vec<Publication>,
    by_name: BTreeMap<Name, usize>,
    /// Serial -> publication and time, per channel.
    pub logs: BTreeMap<Place, BTreeMap<u64, (usize, Option<u64>)>>,
}

impl Ghost {
    pub fn publish(&mut self, user: &str, message_id: &str, publication: Publication) -> usize {
        let number = self.publications.len();
        let name = (publication.channel, user.to_owned(), message_id.to_owned());
        assert!(self.by_name.insert(name, number).is_none(), "message ids of the run are unique");
        self.publications.push(publication);
        number
    }

    /// The highest serial that anybody knows of.
    pub fn head(&self, place: Place) -> u64 {
        self.logs.get(&place).and_then(|log| log.keys().next_back()).copied().unwrap_or(0)
    }

    /// A message was seen: it is what was published, and it always has the same serial.
    pub fn see(&mut self, place: Place, message: &Received) -> usize {
        assert_eq!(message.channel, place.1, "{message:?}");
        let name = (place, message.client.clone(), message.id.clone());
        let Some(&number) = self.by_name.get(&name) else { panic!("never published: {message:?}") };
        let publication = &self.publications[number];
        assert_eq!(publication.parts, message.parts, "content");
        assert_eq!(message.is_batch, message.parts.len() > 1, "a batch of one is no batch");
        assert_eq!(publication.ephemeral, message.serial == 0, "{message:?}");
        assert_eq!(publication.ephemeral, message.ephemeral, "{message:?}");
        if message.serial != 0 {
            self.learn(number, message.serial, Some(message.timestamp_ms));
        }
        number
    }

    /// One serial is one publication, and the other way round, whoever says so.
    pub fn learn(&mut self, number: usize, serial: u64, timestamp_ms: Option<u64>) {
        let publication = &mut self.publications[number];
        let known = *publication.serial.get_or_insert(serial);
        assert_eq!(known, serial, "{publication:?} was published twice");
        let log = self.logs.entry(publication.channel).or_default();
        let entry = log.entry(serial).or_insert((number, timestamp_ms));
        assert_eq!(entry.0, number, "serial {serial} of {:?} twice", publication.channel);
        let known_ms = *entry.1.get_or_insert(timestamp_ms.unwrap_or_default());
        if timestamp_ms.is_none() && known_ms == 0 {
            entry.1 = None;
        }
        assert!(timestamp_ms.is_none_or(|ms| ms == known_ms), "serial {serial}: another time");
    }

    /// Serials are dense, all acknowledged publishes have one, and every publisher's order is kept.
    pub fn check(&self, store_fails: bool) {
        let stored = || self.publications.iter().filter(|p| !p.ephemeral);
        assert!(stored().all(|p| !p.acked || p.serial.is_some()));
        for (place, log) in &self.logs {
            let head = self.head(*place);
            let unknown = head - log.len() as u64;
            let lost = |p: &&Publication| p.channel == *place && p.serial.is_none();
            let lost = stored().filter(lost).count() as u64;
            assert!(unknown <= lost, "{place:?}: {unknown} of {head} serials are nobody's");
            let mut newest: BTreeMap<(usize, u32), usize> = BTreeMap::new();
            for (serial, (number, _)) in log {
                let Publication { author, life, refused, sent, .. } = self.publications[*number];
                // The answer to an earlier copy may have been a refusal that was lost.
                if refused || store_fails && sent > 1 {
                    continue;
                }
                let author = (author, life);
                let before = newest.insert(author, *number);
                assert!(
                    before.is_none_or(|before| before < *number),
                    "{place:?} {serial}: client {author:?} published {before:?} after {number}"
                );
            }
        }
    }
}
