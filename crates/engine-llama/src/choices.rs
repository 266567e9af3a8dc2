//! A closed set of answers as a tree of tokens: what must follow is not asked of the model, and where the texts part it
//! chooses among the branches only.

use std::collections::BTreeMap;

use crate::token::Token;

/// The tree; its texts are tokenised by the caller.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    nodes: Vec<BTreeMap<Token, usize>>,
    len_max: usize,
}

/// How far an answer has come in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place(usize);

impl Choices {
    /// Each answer ends with the token `end`, which no text holds, so that no answer is the beginning of another.
    pub(crate) fn new(texts: &[Vec<Token>], end: Token) -> Self {
        let len_max = texts.iter().map(|text| text.len() + 1).max().unwrap_or(0);
        let mut tree = Self { nodes: vec![BTreeMap::new()], len_max };
        for text in texts {
            let mut at = 0;
            for token in text.iter().copied().chain([end]) {
                let new = tree.nodes.len();
                at = *tree.nodes[at].entry(token).or_insert(new);
                if at == new {
                    tree.nodes.push(BTreeMap::new());
                }
            }
        }
        tree
    }

    /// Tokens of the longest answer, its end included.
    pub(crate) const fn len_max(&self) -> usize {
        self.len_max
    }

    /// The tokens that must follow, up to the next parting or the end.
    pub(crate) fn forced(&self, mut place: Place) -> (Vec<Token>, Place) {
        let mut tokens = Vec::new();
        while self.nodes[place.0].len() == 1 {
            let (token, next) = self.nodes[place.0].iter().next().expect("it has one");
            tokens.push(*token);
            place = Place(*next);
        }
        (tokens, place)
    }

    /// Among which the model chooses; empty at the end.
    pub(crate) fn branches(&self, place: Place) -> impl Iterator<Item = Token> {
        self.nodes[place.0].keys().copied()
    }

    /// None when the token is no branch there.
    pub(crate) fn take(&self, place: Place, token: Token) -> Option<Place> {
        self.nodes[place.0].get(&token).map(|next| Place(*next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Token = Token(99);

    fn tokens(numbers: &[i32]) -> Vec<Token> {
        numbers.iter().copied().map(Token).collect()
    }

    #[test]
    fn what_must_follow_is_known_and_one_decision_is_left() {
        let tree =
            Choices::new(&[tokens(&[1, 2, 3, 7]), tokens(&[1, 2, 4, 7]), tokens(&[1, 2, 5, 7])], END);
        let (forced, place) = tree.forced(Place::default());
        assert_eq!(forced, tokens(&[1, 2]));
        assert_eq!(tree.branches(place).collect::<Vec<_>>(), tokens(&[3, 4, 5]));
        assert_eq!(tree.take(place, Token(9)), None);
        let place = tree.take(place, Token(4)).unwrap();
        let (forced, end) = tree.forced(place);
        assert_eq!(forced, vec![Token(7), END]);
        assert_eq!(tree.branches(end).count(), 0);
    }

    #[test]
    fn an_answer_that_begins_another_can_be_given() {
        let tree = Choices::new(&[tokens(&[1]), tokens(&[1, 2])], END);
        let (forced, place) = tree.forced(Place::default());
        assert_eq!(forced, tokens(&[1]));
        assert_eq!(tree.branches(place).collect::<Vec<_>>(), [Token(2), END]);
    }
}
