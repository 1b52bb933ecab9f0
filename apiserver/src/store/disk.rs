//! In: a batch of changes and the new revision → out: one durable redb transaction → invariant: objects and the revision
//! counter change together or not at all. Row: key `resource\0namespace\0name`, value = schema tag (8 bytes, little endian)
//! followed by the object's JSON.

use super::file::ZeroedFile;
use super::memory::Change;
use super::{Key, Stored};
use crate::object;
use anyhow::Context;
use axum::body::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;
use std::sync::Arc;

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const CACHE_BYTES: usize = 8 << 20;

pub(super) struct Disk {
    db: Database,
}

type Loaded = (Disk, u64, Vec<(Arc<str>, Stored)>);

impl Disk {
    pub fn open(path: &Path) -> anyhow::Result<Loaded> {
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(ZeroedFile::open(path)?)
            .context("open the object database")?;
        let tx = db.begin_write()?;
        tx.open_table(OBJECTS)?;
        tx.open_table(COUNTERS)?;
        tx.commit()?;
        let tx = db.begin_read()?;
        let rev = tx.open_table(COUNTERS)?.get("revision")?.map_or(1, |v| v.value());
        let mut objects = Vec::new();
        for row in tx.open_table(OBJECTS)?.iter()? {
            let (key, value) = row?;
            objects.push(read_row(key.value(), value.value()).with_context(|| format!("row {:?}", key.value()))?);
        }
        drop(tx);
        Ok((Disk { db }, rev, objects))
    }

    pub fn commit(&self, changes: &[Change], rev: u64) -> Result<(), redb::Error> {
        let tx = self.db.begin_write()?;
        {
            let mut table = tx.open_table(OBJECTS)?;
            let mut row = Vec::new();
            for c in changes {
                let key = format!("{}\0{}\0{}", c.resource, c.object.key.ns, c.object.key.name);
                if c.delete {
                    table.remove(key.as_str())?;
                } else {
                    row.clear();
                    row.extend_from_slice(&c.object.tag.to_le_bytes());
                    row.extend_from_slice(&c.object.bytes);
                    table.insert(key.as_str(), row.as_slice())?;
                }
            }
            tx.open_table(COUNTERS)?.insert("revision", rev)?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn read_row(key: &str, value: &[u8]) -> anyhow::Result<(Arc<str>, Stored)> {
    let mut parts = key.splitn(3, '\0');
    let (Some(resource), Some(ns), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        anyhow::bail!("malformed key");
    };
    let (tag, json) = value.split_first_chunk::<8>().context("short row")?;
    let object: serde_json::Value = serde_json::from_slice(json)?;
    let stored = Stored {
        key: Key::new(ns, name),
        rev: object::revision(&object).context("no resourceVersion")?,
        tag: u64::from_le_bytes(*tag),
        meta: object::index_meta(&object),
        bytes: Bytes::copy_from_slice(json),
    };
    Ok((Arc::from(resource), stored))
}
