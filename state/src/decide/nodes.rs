//! In: tokens and machines. Out: who may speak. Invariant: a token makes one node, however often its key asks.

use super::{attempts, check_account};
use crate::command::{Decision, Effect, Rejection};
use crate::event::Event;
use crate::state::State;
use nightshift_types::{NodeId, Timestamp, TokenId, TrustTier};

pub(super) fn create_token(
    state: &State,
    id: TokenId,
    secret_hash: [u8; 32],
    expires: Timestamp,
    owner: String,
    tier: TrustTier,
) -> Result<Decision, Rejection> {
    state.cell().ok_or(Rejection::NotStarted)?;
    check_account("owner", &owner)?;
    if let Some(known) = state.token(&id) {
        let same =
            known.secret_hash == secret_hash && known.expires == expires && known.owner == owner && known.tier == tier;
        return if same { Ok(Decision::default()) } else { Err(Rejection::TokenTaken(id)) };
    }
    Ok(Decision { events: vec![Event::TokenCreated { id, secret_hash, expires, owner, tier }], ..Decision::default() })
}

pub(super) fn spend_token(
    state: &State,
    id: TokenId,
    secret_hash: &[u8; 32],
    key_hash: [u8; 32],
    node: NodeId,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let token = state.token(&id).filter(|token| token.secret_hash == *secret_hash).ok_or(Rejection::BadToken)?;
    if let Some((key, spent)) = &token.spent {
        if *key != key_hash {
            return Err(Rejection::TokenSpent);
        }
        if state.node(spent).is_some_and(|node| node.revoked) {
            return Err(Rejection::NodeRevoked(spent.clone()));
        }
        let effects = vec![Effect::Joined { token: id, node: spent.clone() }];
        return Ok(Decision { effects, ..Decision::default() });
    }
    if now >= token.expires {
        return Err(Rejection::TokenExpired);
    }
    if state.node(&node).is_some() {
        return Err(Rejection::NodeTaken(node));
    }
    let (owner, tier) = (token.owner.clone(), token.tier);
    let events = vec![
        Event::TokenSpent { id: id.clone(), key_hash, node: node.clone() },
        Event::NodeJoined { node: node.clone(), owner, key_hash, tier },
    ];
    Ok(Decision { events, effects: vec![Effect::Joined { token: id, node }], ..Decision::default() })
}

pub(super) fn join(
    state: &State,
    node: NodeId,
    owner: String,
    key_hash: [u8; 32],
    tier: TrustTier,
) -> Result<Decision, Rejection> {
    state.cell().ok_or(Rejection::NotStarted)?;
    check_account("owner", &owner)?;
    match state.node(&node) {
        None => Ok(Decision { events: vec![Event::NodeJoined { node, owner, key_hash, tier }], ..Decision::default() }),
        Some(known) if known.revoked => Err(Rejection::NodeRevoked(node)),
        Some(known) if known.key_hash == key_hash => Ok(Decision::default()),
        Some(_) => Err(Rejection::NodeTaken(node)),
    }
}

pub(super) fn revoke(state: &State, node: NodeId, now: Timestamp) -> Result<Decision, Rejection> {
    let known = state.node(&node).ok_or_else(|| Rejection::UnknownNode(node.clone()))?;
    let mut decision = attempts::lose(state, &node, None, "the node was revoked", now);
    if !known.revoked {
        decision.events.insert(0, Event::NodeRevoked { node: node.clone() });
        decision.effects.push(Effect::Revoked { node });
    }
    Ok(decision)
}
