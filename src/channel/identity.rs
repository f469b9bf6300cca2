//! Identity of a member, and how a returning session is recognized.

use std::sync::Arc;

use crate::ids::ConnectionName;

/// Identity of a member, shared by all channels of its session.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name shown to other members.
    pub user: Arc<str>,
    /// Distinguishes the sessions of one user for other members.
    pub connection: ConnectionName,
    pub link: Link,
    recognition: Recognition,
    /// `None` when both of its fields are.
    details: Option<Box<Details>>,
}

/// How a session reached the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Over WebSocket, or requests of HTTP.
    #[default]
    Web,
    /// Over TCP alone.
    Tcp,
}

/// How a returning session is recognized, without the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recognition {
    Never,
    Connection,
    Device(DeviceOwner),
}

/// What few identities have.
#[derive(Debug, PartialEq, Eq)]
struct Details {
    device: Option<Arc<str>>,
    metadata: Option<Arc<str>>,
}

const _: () = assert!(size_of::<Identity>() <= 72, "every greeted connection has one");

/// How a returning session is recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It is not recognized.
    Never,
    /// By the name of its connection, which the session keeps when it returns. At most one session
    /// has it.
    Connection,
    Device(Device),
}

/// A device that a session runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's own stable id (`lite_id`).
    pub id: Arc<str>,
    pub owner: DeviceOwner,
}

/// Which user an id of a device belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOwner {
    /// No user: an anonymous session, whose names are never shared.
    Anonymous,
    /// The authenticated user.
    User,
}

/// The key that a returning session must present to take over its memberships.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResumeKey {
    pub app: Arc<str>,
    /// The authenticated user; `None` for anonymous sessions, whose names are never shared.
    pub user: Option<Arc<str>>,
    pub session: SessionName,
}

/// The name by which a returning session is recognized.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionName {
    /// The stable id of the device (`lite_id`). A device may have several sessions; one that
    /// returns takes over what another one lost.
    Device(Arc<str>),
    /// The name of the connection, which the session keeps when it returns. At most one session has
    /// it. The client enters its channels again by itself.
    Connection(ConnectionName),
}

impl SessionName {
    pub fn as_str(&self) -> &str {
        match self {
            SessionName::Device(id) => id,
            SessionName::Connection(name) => name,
        }
    }
}

impl Identity {
    /// An identity about which the operator says nothing.
    pub fn new(user: Arc<str>, connection: ConnectionName, resume: Resume) -> Self {
        let (recognition, device) = match resume {
            Resume::Never => (Recognition::Never, None),
            Resume::Connection => (Recognition::Connection, None),
            Resume::Device(Device { id, owner }) => (Recognition::Device(owner), Some(id)),
        };
        let details = device.map(|id| Box::new(Details { device: Some(id), metadata: None }));
        Identity { user, connection, link: Link::default(), recognition, details }
    }

    /// The same identity, of a session that came this way.
    pub fn over(self, link: Link) -> Self {
        Identity { link, ..self }
    }

    /// The same identity, of which the operator says this: the text of a JSON object.
    pub fn with_metadata(&self, metadata: Option<Arc<str>>) -> Self {
        let device = self.device().cloned();
        let has_details = device.is_some() || metadata.is_some();
        Identity {
            user: Arc::clone(&self.user),
            connection: self.connection,
            link: self.link,
            recognition: self.recognition,
            details: has_details.then(|| Box::new(Details { device, metadata })),
        }
    }

    /// What the operator says of the user, the text of a JSON object: the identity service metadata
    /// of the presence graph.
    pub fn metadata(&self) -> Option<&Arc<str>> {
        self.details.as_ref()?.metadata.as_ref()
    }

    /// How the session is recognized when it returns.
    pub fn resume(&self) -> Resume {
        match (self.recognition, self.device()) {
            (Recognition::Device(owner), Some(id)) => {
                Resume::Device(Device { id: Arc::clone(id), owner })
            }
            (Recognition::Connection, _) => Resume::Connection,
            (Recognition::Never | Recognition::Device(_), _) => Resume::Never,
        }
    }

    /// The device's own stable id, if the session has one.
    pub fn device(&self) -> Option<&Arc<str>> {
        self.details.as_ref()?.device.as_ref()
    }

    /// Whether both are the same session, as far as it can be recognized. A resumable session is
    /// recognized by its device, even if its connection name changed. Both must belong to one app.
    pub(crate) fn is_same_session(&self, other: &Identity) -> bool {
        match (self.recognition, other.recognition) {
            (Recognition::Never, Recognition::Never) => self.user == other.user,
            _ => self.has_same_resume_key(other),
        }
    }

    /// Whether both have the same resume key, or neither has one. Both must belong to one app.
    pub(crate) fn has_same_resume_key(&self, other: &Identity) -> bool {
        match (self.recognition, other.recognition) {
            (Recognition::Never, Recognition::Never) => true,
            (Recognition::Connection, Recognition::Connection) => {
                self.connection == other.connection && self.user == other.user
            }
            (Recognition::Device(mine), Recognition::Device(theirs)) => {
                mine == theirs
                    && self.device() == other.device()
                    && (mine == DeviceOwner::Anonymous || self.user == other.user)
            }
            _ => false,
        }
    }

    /// Whether the session is recognized by the name of its connection. Then there is at most one
    /// such session.
    pub(crate) fn is_named_by_connection(&self) -> bool {
        self.recognition == Recognition::Connection
    }

    /// The key that the session presents when it returns; `None` if it cannot be recognized.
    pub(crate) fn resume_key(&self, app: &Arc<str>) -> Option<ResumeKey> {
        let user = || Some(Arc::clone(&self.user));
        let (user, session) = match self.resume() {
            Resume::Never => return None,
            Resume::Connection => (user(), SessionName::Connection(self.connection)),
            Resume::Device(device) => {
                let user = if device.owner == DeviceOwner::User { user() } else { None };
                (user, SessionName::Device(device.id))
            }
        };
        Some(ResumeKey { app: Arc::clone(app), user, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: &str, connection: &str, resume: Resume) -> Identity {
        Identity::new(user.into(), connection.into(), resume)
    }

    fn device(user: &str, id: &str, owner: DeviceOwner) -> Identity {
        of(user, "c", Resume::Device(Device { id: id.into(), owner }))
    }

    #[test]
    fn what_the_operator_says_changes_nothing_else() {
        for resume in [Resume::Never, Resume::Connection] {
            assert_eq!(of("a", "1", resume.clone()).resume(), resume);
        }
        let plain = device("a", "1", DeviceOwner::User);
        let described = plain.with_metadata(Some("{}".into()));
        assert_eq!((plain.metadata(), described.metadata().map(|m| &**m)), (None, Some("{}")));
        assert_eq!(described.resume(), plain.resume());
        assert!(described.has_same_resume_key(&plain));
        assert_eq!(described.with_metadata(None), plain);
    }

    #[test]
    fn resume_keys_are_equal_exactly_when_has_same_resume_key_says_so() {
        use DeviceOwner::{Anonymous, User};
        let app: Arc<str> = "app".into();
        let all = [
            of("a", "1", Resume::Never),
            of("b", "2", Resume::Never),
            of("a", "1", Resume::Connection),
            of("a", "2", Resume::Connection),
            of("b", "1", Resume::Connection),
            device("a", "1", User),
            device("b", "1", User),
            device("a", "1", Anonymous),
            device("b", "1", Anonymous),
            device("b", "2", Anonymous),
        ];
        for mine in &all {
            for theirs in &all {
                let is_same = mine.resume_key(&app) == theirs.resume_key(&app);
                assert_eq!(mine.has_same_resume_key(theirs), is_same, "{mine:?} {theirs:?}");
            }
        }
    }
}
