// The words of this page, for the help sheet.

export const WORDS: [word: string, means: string][] = [
  ['SAE', 'sparse autoencoder: writes what a language model holds at one place as a sum of few out of many features'],
  ['feature', 'one direction of an SAE. It fires on a token (is above zero there) or is silent; what people read into it is theirs to say'],
  ['example', 'a place in the text where the feature fires: the outlined token, coloured like its neighbours by how strongly'],
  ['loss without it', 'how much worse (solid, red) or better (dotted, blue) the model predicts the underlined token when the feature is taken away'],
  ['interval', 'one of ten even steps from 0 to the feature’s maximum; its examples are drawn at random, so that weak firings are seen, too'],
  ['logit weight', 'how far the feature, by itself, pushes a token to be the next one'],
  ['L0', 'how many features fire on a token, on average: lower is sparser'],
  ['EV, CE score', 'how much of the activations, and of the model’s predictions, is left when only the features are kept: 1 is all'],
  ['density', 'share of tokens on which a feature fires; dead: on none; dense: on more than a tenth'],
  ['twin', 'the feature of another SAE that fires with this one, or points the same way'],
  ['n', 'how many tokens, firings or texts a number is of'],
];
