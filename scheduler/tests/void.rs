//! What a leader decided and could not write is never read: neither by its controllers nor by people, who would act on it.

use nightshift_scheduler::blobs::BlobStore;
use nightshift_scheduler::leader::{self, Keeping, Parts, SubmitError, Timing};
use nightshift_scheduler::metrics::Metrics;
use nightshift_state::{Archive, Command, EmbeddedJournal, EncodedBatch, Folded, Head, Journal, JournalError};
use nightshift_types::{Bytes, CellId, Epoch, Timestamp, TokenId, TrustTier};
use nightshift_wire::pki::CertificateAuthority;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A journal whose leader is deposed while its second batch is on the way.
struct Deposed {
    journal: EmbeddedJournal,
}

impl Journal for Deposed {
    type Store = <EmbeddedJournal as Journal>::Store;

    fn store(&self) -> Self::Store {
        self.journal.store()
    }
    async fn catch_up(&mut self, folded: &mut Folded) -> Result<Head, JournalError> {
        self.journal.catch_up(folded).await
    }
    async fn append(&mut self, batch: &EncodedBatch) -> Result<Head, JournalError> {
        if batch.sequence() == 1 {
            return self.journal.append(batch).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        Err(JournalError::LostFence("another leads".into()))
    }
    fn epoch(&self) -> &Epoch {
        self.journal.epoch()
    }
    fn head(&self) -> Head {
        self.journal.head()
    }
    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        self.journal.lost()
    }
    async fn confirm(&mut self) -> Result<(), JournalError> {
        self.journal.confirm().await
    }
    async fn resign(&mut self) -> Result<(), JournalError> {
        self.journal.resign().await
    }
}

#[tokio::test]
async fn what_a_deposed_leader_decided_is_read_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let journal = Deposed { journal: EmbeddedJournal::open(place("journal.redb")).await.unwrap() };
    let parts = Parts {
        ca: CertificateAuthority::generate("a test").unwrap(),
        blobs: BlobStore::open(&folder.path().join("blobs")).unwrap(),
        metrics: Metrics::new(),
        timing: Timing::default(),
        keeping: Keeping {
            archive: Archive::open(&place("archive")).unwrap(),
            after: Bytes::gibi(1),
            raise_format: false,
        },
    };
    let (handle, lead) = leader::start(journal, CellId::new("test").unwrap(), Folded::default(), parts).await.unwrap();
    let leading = tokio::spawn(lead.run(CancellationToken::new()));
    // The first batch, which says who leads, is durable.
    handle.confirm().await.unwrap();
    let command = Command::CreateToken {
        id: TokenId::new("token").unwrap(),
        secret_hash: [1; 32],
        expires: Timestamp(u64::MAX),
        owner: "anna".into(),
        tier: TrustTier::Vetted,
    };
    let asking = handle.clone();
    let asked = tokio::spawn(async move { asking.submit(command).await });
    // Begins to wait while the batch is on its way, as a controller does.
    let reading = handle.clone();
    let read = tokio::spawn(async move {
        loop {
            if !reading.state().await.tokens().is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let ended = leading.await.unwrap();
    assert!(matches!(ended, Err(JournalError::LostFence(_))), "{ended:?}");
    assert!(matches!(asked.await.unwrap(), Err(SubmitError::Stopped)));
    let read = tokio::time::timeout(Duration::from_millis(500), read).await;
    assert!(read.is_err(), "a token that is in no journal was read");
}
