/**
 * WeChat's errcodes and their texts: those that code2Session and the endpoints beside it answer with.
 *
 * Each can be had in two ways: by the state that causes it (a used code, a frozen secret), where the
 * simulator models that state, and by a fault rule `{kind: 'errcode', errcode}`, which takes its text
 * from here.
 */
export const ERRMSG: Readonly<Record<number, string>> = {
  [-1]: 'system error',
  40001: 'invalid credential, access_token is invalid or not latest',
  40002: 'invalid grant_type',
  40003: 'invalid openid',
  40013: 'invalid appid',
  40014: 'invalid access_token',
  40029: 'invalid code',
  40066: 'invalid url',
  40097: 'invalid args',
  40125: 'invalid appsecret',
  40163: 'code been used',
  40164: 'invalid ip, not in whitelist',
  40226: 'code blocked',
  40243: 'AppSecret frozen',
  41001: 'access_token missing',
  41002: 'appid missing',
  41004: 'appsecret missing',
  41008: 'missing code',
  41009: 'missing openid',
  42001: 'access_token expired',
  42003: 'oauth_code expired',
  43001: 'require GET method',
  43002: 'require POST method',
  45009: 'reach max api daily quota limit',
  // The doubled spaces are WeChat's own.
  45011: 'api minute-quota reach limit  mustslower  retry next minute',
  47001: 'data format error',
  48001: 'api unauthorized',
  48002: 'api forbidden',
  50002: 'user limited',
  50004: 'forbidden to use token api',
  50007: 'account frozen',
  60020: 'not allow to access from your ip',
  61003: 'component is not authorized by this account',
  61004: 'access clientip is not registered',
  87007: 'session_key is not existed or expired',
  87008: 'invalid sig_method',
  87009: 'invalid signature',
  89503: 'this ip needs the confirmation of the administrator',
  89506: 'this ip was refused by the administrator, retry after 24 hours',
  89507: 'this ip was refused by the administrator, retry after 1 hour',
}

/** Douyin's own, which has other meanings for some of the numbers. */
export const DOUYIN_ERR_TIPS: Readonly<Record<number, string>> = {
  [-1]: 'system error',
  40014: 'missing param',
  40015: 'bad appid',
  40017: 'bad secret',
  40018: 'bad code',
  40019: 'bad anonymous code',
}
