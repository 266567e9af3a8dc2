//! Notices: what waits to be delivered, for each receiver on its own.

use overnight_domain::ids::NoticeId;
use overnight_domain::limits::NOTICES_MAX;
use overnight_domain::notice::{Notice, NoticeEvent, Receiver, Subscription};
use overnight_domain::time::UnixTime;
use rusqlite::{Connection, Result as SqlResult, Row, params};

use super::values;
use crate::{Result, Settlement, WaitingNotice};

pub(super) fn set_receivers(db: &Connection, subscriptions: &[Subscription]) -> Result<()> {
    let names = subscriptions.iter().map(|wanted| wanted.receiver.as_str()).collect::<Vec<_>>();
    // Their notices go with them.
    db.prepare_cached("DELETE FROM receivers WHERE name NOT IN (SELECT value FROM json_each(?1))")?
        .execute([values::to_json(&names)?])?;
    for Subscription { receiver, events } in subscriptions {
        db.prepare_cached(
            "INSERT INTO receivers (name, events) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET events = excluded.events",
        )?
        .execute(params![receiver.as_str(), values::to_json(events)?])?;
    }
    Ok(())
}

pub(super) fn put(db: &Connection, notice: &Notice) -> Result<()> {
    let event = notice.news.event();
    let receivers = db
        .prepare_cached("SELECT name, events FROM receivers")?
        .query_map([], |row| {
            let events = values::json::<Vec<NoticeEvent>>(row, "events")?;
            Ok((values::word(row, "name", Receiver::parse)?, events))
        })?
        .collect::<SqlResult<Vec<_>>>()?;
    for (receiver, _) in receivers.iter().filter(|(_, events)| events.contains(&event)) {
        db.prepare_cached(
            "INSERT INTO notices (receiver, id, at, news, attempts, due_at) VALUES (?1, ?2, ?3, ?4, 0, ?3)
             ON CONFLICT (receiver, id) DO NOTHING",
        )?
        .execute(params![
            receiver.as_str(),
            notice.id.as_str(),
            notice.at.millis(),
            values::to_json(&notice.news)?
        ])?;
        let dropped = db
            .prepare_cached(
                "DELETE FROM notices WHERE receiver = ?1 AND number <=
                     (SELECT number FROM notices WHERE receiver = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute(params![receiver.as_str(), values::limit(NOTICES_MAX)])?;
        if dropped > 0 {
            let receiver = receiver.as_str();
            tracing::error!(receiver, dropped, "too many notices wait: the oldest are dropped");
        }
    }
    Ok(())
}

pub(super) fn due(
    db: &Connection,
    receiver: Receiver,
    now: UnixTime,
    limit: usize,
) -> Result<Vec<WaitingNotice>> {
    let rows = db
        .prepare_cached(
            "SELECT * FROM notices WHERE receiver = ?1 AND due_at <= ?2 ORDER BY due_at, number LIMIT ?3",
        )?
        .query_map(params![receiver.as_str(), now.millis(), values::limit(limit)], read)?
        .collect::<SqlResult<_>>()?;
    Ok(rows)
}

pub(super) fn settle(
    db: &Connection,
    receiver: Receiver,
    id: &NoticeId,
    settlement: Settlement,
) -> Result<()> {
    match settlement {
        Settlement::Done => db
            .prepare_cached("DELETE FROM notices WHERE receiver = ?1 AND id = ?2")?
            .execute([receiver.as_str(), id.as_str()])?,
        Settlement::RetryAt(due_at) => db
            .prepare_cached(
                "UPDATE notices SET attempts = attempts + 1, due_at = ?3 WHERE receiver = ?1 AND id = ?2",
            )?
            .execute(params![receiver.as_str(), id.as_str(), due_at.millis()])?,
    };
    Ok(())
}

fn read(row: &Row<'_>) -> SqlResult<WaitingNotice> {
    Ok(WaitingNotice {
        notice: Notice {
            id: values::text(row, "id")?,
            at: values::time(row, "at")?,
            news: values::json(row, "news")?,
        },
        attempts: row.get("attempts")?,
    })
}
