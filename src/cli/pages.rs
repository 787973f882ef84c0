//! Lists that come in pages.

use super::error::Error;

/// Asks for page after page, each with the token that came with the one before, until there are no more
/// or there are `most` entries.
pub(super) async fn all<T>(
    most: usize,
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (entries, next) = page(token).await?;
        all.extend(entries);
        all.truncate(most);
        if next.is_empty() || all.len() == most {
            return Ok(all);
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pages of two.
    async fn page(token: String) -> Result<(Vec<usize>, String), Error> {
        let first: usize = if token.is_empty() { 0 } else { token.parse().unwrap() };
        let next = if first < 4 { (first + 2).to_string() } else { String::new() };
        Ok((vec![first, first + 1], next))
    }

    #[tokio::test]
    async fn ends_with_the_last_page_or_when_there_are_enough() {
        assert_eq!(all(usize::MAX, page).await.unwrap(), [0, 1, 2, 3, 4, 5]);
        let mut asked = 0;
        let counted = all(3, async |token| {
            asked += 1;
            page(token).await
        });
        assert_eq!(counted.await.unwrap(), [0, 1, 2]);
        assert_eq!(asked, 2, "no page is asked for in vain");
    }
}
