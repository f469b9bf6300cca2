//! Real NodeDB Lite 0.1.0 devices that share documents through the `headcount` binary. `run` builds
//! and runs them; see the README of the repository.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headcount_blackbox::Server;
use nodedb_client::NodeDb;
use nodedb_lite::sync::{SyncClient, SyncConfig, SyncState};
use nodedb_lite::{LiteConfig, NodeDbLite, PagedbStorageMem};
use nodedb_types::document::Document;
use nodedb_types::value::Value;

/// How long a test waits for something that must happen. Lost imports are sent again after up to
/// nine seconds of quiet.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Full-text indexes get a share of it; with the default a newcomer refuses its own writes when it
/// was sent a long history.
const MEMORY_BUDGET: usize = 1 << 30;

/// A device with its database in memory.
pub struct Device {
    pub db: Arc<NodeDbLite<PagedbStorageMem>>,
}

impl Device {
    /// A device that has not connected.
    pub async fn open() -> Device {
        let storage = PagedbStorageMem::open_in_memory().await.expect("a database in memory");
        let config = LiteConfig { memory_budget: MEMORY_BUDGET, ..LiteConfig::default() };
        let db = NodeDbLite::open_with_config(storage, config).await.expect("opens");
        Device { db }
    }

    /// A device that is connected.
    pub async fn connected(server: &Server) -> Device {
        let device = Device::open().await;
        device.connect(server).await;
        device
    }

    pub async fn connect(&self, server: &Server) {
        self.connect_as(server, "").await;
    }

    pub async fn connect_as(&self, server: &Server, token: &str) {
        let client = self.start(server, token);
        let deadline = Instant::now() + DEADLINE;
        while client.state().await != SyncState::Connected {
            assert!(Instant::now() < deadline, "not connected within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Begins to connect.
    pub fn start(&self, server: &Server, token: &str) -> Arc<SyncClient> {
        let url = format!("ws://{}/sync", server.http);
        self.db.start_sync(SyncConfig::new(url, token)).expect("no sync was running")
    }

    pub async fn disconnect(&self) {
        assert!(self.db.stop_sync().await, "a sync was running");
    }

    pub async fn sql(&self, text: &str) {
        self.db.execute_sql(text, &[]).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    pub async fn put(&self, collection: &str, id: &str, field: &str, value: &str) {
        let mut document = self.get(collection, id).await.unwrap_or_else(|| Document::new(id));
        document.set(field, Value::String(value.into()));
        let put = self.db.document_put(collection, document).await;
        put.unwrap_or_else(|error| panic!("put {collection}/{id}: {error}"));
    }

    pub async fn delete(&self, collection: &str, id: &str) {
        let deleted = self.db.document_delete(collection, id).await;
        deleted.unwrap_or_else(|error| panic!("delete {collection}/{id}: {error}"));
    }

    pub async fn get(&self, collection: &str, id: &str) -> Option<Document> {
        self.db.document_get(collection, id).await.ok().flatten()
    }

    pub async fn text(&self, collection: &str, id: &str, field: &str) -> Option<String> {
        let document = self.get(collection, id).await?;
        document.get_str(field).map(str::to_owned)
    }

    /// Waits until a field has a value; `None`: until the document is gone. Returns how long.
    pub async fn sees(
        &self,
        collection: &str,
        id: &str,
        field: &str,
        value: Option<&str>,
    ) -> Duration {
        let begun = Instant::now();
        loop {
            let found = self.text(collection, id, field).await;
            if found.as_deref() == value {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "{collection}/{id}.{field} is {found:?} and not {value:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a key has a value, or is gone.
    pub async fn sees_key(&self, collection: &str, key: &str, value: Option<&[u8]>) {
        let begun = Instant::now();
        loop {
            let found = self.db.kv_get(collection, key).await.ok().flatten();
            if found.as_deref() == value {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{collection}/{key} is {found:?}, not {value:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Name of a test document.
pub fn id(writer: &str, number: usize) -> String {
    format!("{writer}-{number:03}")
}
