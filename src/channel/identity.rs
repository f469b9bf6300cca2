//! Who a member is, and how it is known again when it returns.

use std::sync::Arc;

use crate::ids::ConnectionName;

/// Who a member is, shared by every channel its session is in.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name other members see.
    pub user: Arc<str>,
    /// Tells the sessions of one user apart where members see it.
    pub connection: ConnectionName,
    pub resume: Resume,
}

const _: () = assert!(size_of::<Identity>() <= 72, "every greeted connection has one");

/// How a session can be told from others of its user, and so be resumed.
#[derive(Debug, PartialEq, Eq)]
pub enum Resume {
    /// It cannot.
    Never,
    /// By its connection's name, which it keeps when it returns; there is never more than one.
    Connection,
    Device(Box<Device>),
}

/// A device that a session runs on.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's own stable id (`lite_id`).
    pub id: Arc<str>,
    pub owner: DeviceOwner,
}

/// Whose word it is that a device returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOwner {
    /// Nobody's: anonymous sessions, whose names are never shared.
    Nobody,
    /// The authenticated user's.
    User,
}

/// What a returning session must show to take its memberships over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResumeKey {
    pub app: Arc<str>,
    /// The authenticated user; `None` for anonymous sessions, whose names are never shared.
    pub user: Option<Arc<str>>,
    pub session: SessionName,
}

/// What a session is called by those who must know it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionName {
    /// The device's own stable id (`lite_id`). A device may have several sessions, and one that
    /// returns takes over what another lost.
    Device(Arc<str>),
    /// The connection's name, which the session keeps when it returns; there is never more than
    /// one. It enters again by itself where it wants to be a member.
    Connection(ConnectionName),
}

impl Identity {
    /// Is this who the other is, as far as can be told? A session that can be resumed is told by
    /// its device, whatever it is called meanwhile. Both are of one app.
    pub fn is_same_session(&self, other: &Identity) -> bool {
        match (&self.resume, &other.resume) {
            (Resume::Never, Resume::Never) => self.user == other.user,
            _ => self.is_resumed_as(other),
        }
    }

    /// Would both show the same to be resumed, or neither anything? Both are of one app.
    pub fn is_resumed_as(&self, other: &Identity) -> bool {
        match (&self.resume, &other.resume) {
            (Resume::Never, Resume::Never) => true,
            (Resume::Connection, Resume::Connection) => {
                self.connection == other.connection && self.user == other.user
            }
            (Resume::Device(mine), Resume::Device(theirs)) => {
                mine == theirs && (mine.owner == DeviceOwner::Nobody || self.user == other.user)
            }
            _ => false,
        }
    }

    /// Is the session known by its connection's name, which it keeps when it returns? Then there is
    /// never more than one of it.
    pub fn is_named_by_connection(&self) -> bool {
        self.resume == Resume::Connection
    }

    /// What the session shows when it returns to an app; `None` when it cannot be told from others.
    pub fn resume_key(&self, app: &Arc<str>) -> Option<ResumeKey> {
        let user = || Some(Arc::clone(&self.user));
        let (user, session) = match &self.resume {
            Resume::Never => return None,
            Resume::Connection => (user(), SessionName::Connection(self.connection)),
            Resume::Device(device) => {
                let user = if device.owner == DeviceOwner::User { user() } else { None };
                (user, SessionName::Device(Arc::clone(&device.id)))
            }
        };
        Some(ResumeKey { app: Arc::clone(app), user, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: &str, connection: &str, resume: Resume) -> Identity {
        Identity { user: user.into(), connection: connection.into(), resume }
    }

    fn device(user: &str, id: &str, owner: DeviceOwner) -> Identity {
        of(user, "c", Resume::Device(Box::new(Device { id: id.into(), owner })))
    }

    #[test]
    fn two_are_resumed_as_the_same_when_they_would_show_the_same() {
        use DeviceOwner::{Nobody, User};
        let app: Arc<str> = "app".into();
        let all = [
            of("a", "1", Resume::Never),
            of("b", "2", Resume::Never),
            of("a", "1", Resume::Connection),
            of("a", "2", Resume::Connection),
            of("b", "1", Resume::Connection),
            device("a", "1", User),
            device("b", "1", User),
            device("a", "1", Nobody),
            device("b", "1", Nobody),
            device("b", "2", Nobody),
        ];
        for mine in &all {
            for theirs in &all {
                let is_same = mine.resume_key(&app) == theirs.resume_key(&app);
                assert_eq!(mine.is_resumed_as(theirs), is_same, "{mine:?} {theirs:?}");
            }
        }
    }
}
